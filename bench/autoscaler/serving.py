"""What `bench.serving` measures of an engine, measured of a simulated one."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import fmean

from bench.autoscaler.engine import Engine
from bench.autoscaler.requests import Job, Request
from bench.autoscaler.roofline import Server
from bench.autoscaler.summary import bucket_quantile, quantile
from bench.serving.scenario import ALIGNED_TOKENS, STEPS, Cell, Workload

SETTLE_SHARE = 0.2
"""Of a window, that passes before it opens."""
LEAST_SECONDS = 1e-9
"""To advance an engine by leads to the end of its next step."""


def step_seconds(server: Server, cell: Cell) -> float:
    """A step of decoding: the mean of `STEPS` from the cell's context on."""
    first, *_ = _served(
        server, [_presumed(cell.context + 1, 1 + STEPS) for _ in range(cell.sequences)]
    )
    return (first.finished - first.first_token) / STEPS


def prefill_rate(server: Server, cell: Cell) -> float:
    """Tokens a second of the cell's prompts, which all wait when the engine begins."""
    *_, last = _served(server, [_asked(cell.context + 1, 1) for _ in range(cell.sequences)])
    return cell.sequences * cell.context / last.finished


def _served(server: Server, jobs: list[Job]) -> list[Job]:
    engine = _begun(server, jobs)
    while engine.outstanding:
        engine.advance(engine.now + 1.0)
    return jobs


def _begun(server: Server, jobs: Iterable[Job]) -> Engine:
    engine = Engine(server)
    engine.arriving.extend(jobs)
    return engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What was seen while a load lasted, in seconds and tokens a second.

    Attributes:
        usage: share of the cache after each step, in the mean.
        ttft: times to first tokens, in order.
        gaps: between tokens, by `bench.autoscaler.engine.BUCKETS`.
    """

    output_rate: float
    prompt_rate: float
    usage: float
    ttft: tuple[float, ...]
    gaps: Counter[int]

    def ttft_quantile(self, share: float) -> float:
        """Of the times to first tokens; 0 where none came."""
        return quantile(self.ttft, share)

    def gap_quantile(self, share: float) -> float:
        """Of the times between tokens."""
        return bucket_quantile(self.gaps, share)


def saturated(server: Server, workload: Workload, *, clients: int, seconds: float) -> Window:
    """A load whose first requests have ages that are spread evenly."""
    return _watched(server, workload, [(i + 0.5) / clients for i in range(clients)], seconds)


def half_load(server: Server, workload: Workload, *, clients: int, seconds: float) -> Window:
    """A load whose first requests have ages that are drawn, as they are there."""
    draw = random.Random(0)
    return _watched(server, workload, [draw.random() for _ in range(clients)], seconds)


def _watched(server: Server, workload: Workload, ages: Iterable[float], seconds: float) -> Window:
    load = Load(server, workload, ages)
    load.go_on(SETTLE_SHARE * seconds)
    engine, began = load.engine, load.engine.now
    before, gaps = replace(engine.totals), Counter(engine.latencies)
    load.used.clear()
    load.go_on(began + seconds)
    totals, lasted = engine.totals, engine.now - began
    firsts = [job for job in load.jobs if began < job.first_token <= engine.now]
    return Window(
        output_rate=(totals.generated_tokens - before.generated_tokens) / lasted,
        prompt_rate=(totals.computed_tokens - before.computed_tokens) / lasted,
        usage=fmean(load.used) / server.cache_tokens,
        ttft=tuple(sorted(job.first_token_seconds for job in firsts)),
        gaps=engine.latencies - gaps,
    )


class Load:
    """Clients that each ask, wait for the whole answer, and ask again.

    Attributes:
        jobs: all that was asked.
        used: tokens of the cache in use, after each step.
    """

    def __init__(self, server: Server, workload: Workload, ages: Iterable[float]) -> None:
        self._workload = workload
        self.used: list[int] = []
        self.jobs = [_aged(workload, age) for age in ages]
        self.engine = _begun(server, self.jobs)
        self._unanswered = list(self.jobs)

    def go_on(self, until: float) -> None:
        """Serve step by step, for whoever is answered asks again at once."""
        while self.engine.now < until:
            answered = self.engine.totals.finished
            self.engine.advance(self.engine.now + LEAST_SECONDS)
            self.used.append(self.engine.used_tokens)
            if self.engine.totals.finished > answered:
                self._ask_again()

    def _ask_again(self) -> None:
        now, workload = self.engine.now, self._workload
        left = [job for job in self._unanswered if not job.is_finished]
        again = [
            _asked(workload.input_tokens, workload.output_tokens, at=now)
            for _ in range(len(self._unanswered) - len(left))
        ]
        self.engine.arriving.extend(again)
        self.jobs += again
        self._unanswered = left + again


def _aged(workload: Workload, age: float) -> Job:
    """A request of which prompt and answer, as far as it is written, are in the cache."""
    written = workload.input_tokens + int(age * workload.output_tokens)
    known = max(written // ALIGNED_TOKENS, 1) * ALIGNED_TOKENS + 1  # the last is computed
    return _presumed(known, max(workload.tokens - known, 1))


def _presumed(prompt: int, output: int) -> Job:
    """A request whose prompt is in the cache, but for its last token."""
    job = _asked(prompt, output)
    job.cached = prompt - 1
    return job


def _asked(prompt: int, output: int, *, at: float = 0.0) -> Job:
    return Job(Request(arrival=at, prompt_tokens=prompt, output_tokens=output))
