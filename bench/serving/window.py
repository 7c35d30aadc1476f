"""What is counted between two moments of an engine's life."""

from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from vllm.v1.metrics.stats import IterationStats


class Moment(NamedTuple):
    """The end of a step, and what was counted until then.

    Attributes:
        at: seconds of Unix time.
        tokens: that were generated.
        prompt_tokens: that were computed, not found in the cache.
    """

    at: float
    tokens: int
    prompt_tokens: int


@dataclass
class Window:
    """Steps between two moments.

    Attributes:
        began: when the first step reported, whose tokens are not counted, in seconds of Unix time.
        ended: when the last one reported.
        answers: the first and the last moment at which a request ended.
        tokens: that were generated.
        prompt_tokens: that were computed, not found in the cache.
        first_token_seconds: from a request's arrival to its first token.
        gap_seconds: between two tokens of a request.
        finished: requests.
        preemptions: of requests.
        usage: share of the cache in use, after each step.
        running: sequences, in each step.
    """

    began: float = 0.0
    ended: float = 0.0
    answers: tuple[Moment, Moment] | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    first_token_seconds: list[float] = field(default_factory=list)
    gap_seconds: list[float] = field(default_factory=list)
    finished: int = 0
    preemptions: int = 0
    usage: list[float] = field(default_factory=list)
    running: list[int] = field(default_factory=list)

    def add(self, step: "IterationStats") -> None:
        """Count a step."""
        self.ended = step.iteration_timestamp
        if not self.began:
            self.began = self.ended
            return
        self.tokens += step.num_generation_tokens
        self.prompt_tokens += step.prompt_token_stats.computed
        self.first_token_seconds += step.time_to_first_tokens_iter
        self.gap_seconds += step.inter_token_latencies_iter
        self.finished += len(step.finished_requests)
        self.preemptions += step.num_preempted_reqs
        if step.finished_requests:
            now = self._now()
            self.answers = (self.answers[0] if self.answers else now, now)

    def _now(self) -> Moment:
        return Moment(self.ended, self.tokens, self.prompt_tokens)

    def _counted(self) -> tuple[Moment, Moment]:
        """Between which moments rates are taken: as many requests end as begin between answers.

        Where those are close together, or there are none, the whole window counts.
        """
        first, last = self.answers or (self._now(),) * 2
        if last.at - first.at > (self.ended - self.began) / 2:
            return first, last
        return Moment(self.began, 0, 0), self._now()

    def report(self) -> dict[str, Any]:
        """Figures for the record."""
        first, last = self._counted()
        seconds = last.at - first.at

        def rate(tokens: int) -> float:
            return round(tokens / seconds, 1) if seconds else 0.0

        return {
            "seconds": round(seconds, 2),
            "output_tokens_per_second": rate(last.tokens - first.tokens),
            "prompt_tokens_per_second": rate(last.prompt_tokens - first.prompt_tokens),
            "requests_finished": self.finished,
            "preemptions": self.preemptions,
            "running": round(fmean(self.running or [0]), 1),
            "cache_usage": round(fmean(self.usage or [0.0]), 3),
            "first_token_ms": percentiles(self.first_token_seconds),
            "inter_token_ms": percentiles(self.gap_seconds),
        }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds, and of how many; empty of none."""
    if not seconds:
        return {}
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "count": len(seconds)}
