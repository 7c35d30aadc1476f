"""Figures of a run."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any

from bench.autoscaler.cluster import Run
from bench.autoscaler.engine import BUCKETS
from bench.autoscaler.requests import Job
from bench.autoscaler.roofline import StepTime

FLAP_SECONDS = 600.0
"""A change of size in the other direction within this time is a flap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """When a first token is late.

    `slowdown` times what the prompt takes on an idle server, as in Stojkovic et al., "DynamoLLM",
    HPCA 2025, and never less than `seconds`: a long prompt may take longer than a short one.
    """

    step: StepTime
    seconds: float = 5.0
    slowdown: float = 5.0

    def missed(self, job: Job) -> bool:
        """Whether the request had to wait too long."""
        alone = self.step.prefill_seconds(job.request.prompt_tokens)
        return job.first_token_seconds > max(self.seconds, self.slowdown * alone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a policy cost and what its users saw.

    Attributes:
        ttft_violations: share of accepted requests whose first token was late.
        preempted: requests that were preempted at least once.
        rejected: requests longer than the server's context.
        flaps: changes of size within ten minutes of one in the other direction.
    """

    gpu_hours: float
    ttft_violations: float
    ttft_p50_seconds: float
    ttft_p99_seconds: float
    itl_p50_seconds: float
    itl_p99_seconds: float
    preempted: int
    rejected: int
    scalings_per_hour: float
    flaps: int
    largest: int

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        return {
            name: round(value, 5) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def summarise(run: Run, target: Target, *, initial: int) -> Summary:
    """The figures of `run`, which began with `initial` servers."""
    served = [job for job in run.jobs if not job.rejected]
    waits = sorted(job.first_token_seconds for job in served)
    latencies: Counter[int] = Counter()
    for replica in run.replicas:
        latencies.update(replica.engine.latencies)
    scalings = [each for each in run.scalings if each[0] <= run.span]
    return Summary(
        gpu_hours=run.gpu_seconds / 3600,
        ttft_violations=sum(map(target.missed, served)) / len(served) if served else 0.0,
        ttft_p50_seconds=quantile(waits, 0.5),
        ttft_p99_seconds=quantile(waits, 0.99),
        itl_p50_seconds=bucket_quantile(latencies, 0.5),
        itl_p99_seconds=bucket_quantile(latencies, 0.99),
        preempted=sum(job.preemptions > 0 for job in served),
        rejected=len(run.jobs) - len(served),
        scalings_per_hour=len(scalings) * 3600 / run.span,
        flaps=flaps(scalings),
        largest=max(accumulate((change for _, change in scalings), initial=initial)),
    )


def flaps(scalings: Iterable[tuple[float, int]]) -> int:
    """Changes that undo, within `FLAP_SECONDS`, some of the change before."""
    return sum(
        before[1] * after[1] < 0 and after[0] - before[0] < FLAP_SECONDS
        for before, after in pairwise(scalings)
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of values in order; 0 of none."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def bucket_quantile(buckets: Counter[int], share: float) -> float:
    """Of what was counted in buckets: the middle of the one that holds it; 0 of none."""
    rank, seen = share * buckets.total(), 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= rank:
            return math.exp((bucket + 0.5) / BUCKETS)
    return 0.0
