"""What is counted between two moments of an engine's life."""

from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from vllm.v1.metrics.stats import IterationStats


class Moment(NamedTuple):
    """The end of a step.

    Attributes:
        seconds: on any clock.
        tokens: that were generated until then.
        prompt_tokens: that were computed until then, not found in the cache.
    """

    seconds: float
    tokens: int
    prompt_tokens: int


class Rates:
    """Tokens a second, from the end of the first request to that of the last.

    A prompt that is computed follows on each end, so that as many prompts are counted as answers.
    Where too few requests end to span half of the time, all steps count but the first, which had
    begun before.
    """

    def __init__(self) -> None:
        self._begin = self._now = Moment(0.0, 0, 0)
        self._ends: tuple[Moment, Moment] | None = None

    def add(self, seconds: float, *, tokens: int, prompt_tokens: int, ended: int) -> None:
        """Count a step that was over at a time, and in which so many requests ended."""
        if not self._now.seconds:
            self._begin = self._now = Moment(seconds, 0, 0)
            return
        _, before, computed = self._now
        self._now = Moment(seconds, before + tokens, computed + prompt_tokens)
        if ended:
            self._ends = (self._ends[0] if self._ends else self._now, self._now)

    def _span(self) -> tuple[Moment, Moment]:
        first, last = self._ends or (self._now, self._now)
        if last.seconds - first.seconds > (self._now.seconds - self._begin.seconds) / 2:
            return first, last
        return self._begin, self._now

    @property
    def seconds(self) -> float:
        """That are counted; 0 of less than two steps."""
        first, last = self._span()
        return last.seconds - first.seconds

    @property
    def output(self) -> float:
        """Tokens generated a second."""
        first, last = self._span()
        return (last.tokens - first.tokens) / self.seconds if self.seconds else 0.0

    @property
    def prompts(self) -> float:
        """Tokens of prompts computed a second."""
        first, last = self._span()
        return (last.prompt_tokens - first.prompt_tokens) / self.seconds if self.seconds else 0.0


@dataclass
class Window:
    """Steps between two moments.

    Attributes:
        rates: of tokens.
        first_token_seconds: from a request's arrival to its first token.
        gap_seconds: between two tokens of a request.
        finished: requests.
        preemptions: of requests.
        usage: share of the cache in use, after each step.
        running: sequences, in each step.
    """

    rates: Rates = field(default_factory=Rates)
    first_token_seconds: list[float] = field(default_factory=list)
    gap_seconds: list[float] = field(default_factory=list)
    finished: int = 0
    preemptions: int = 0
    usage: list[float] = field(default_factory=list)
    running: list[int] = field(default_factory=list)

    def add(self, step: "IterationStats") -> None:
        """Count a step."""
        self.rates.add(
            step.iteration_timestamp,
            tokens=step.num_generation_tokens,
            prompt_tokens=step.prompt_token_stats.computed,
            ended=len(step.finished_requests),
        )
        self.first_token_seconds += step.time_to_first_tokens_iter
        self.gap_seconds += step.inter_token_latencies_iter
        self.finished += len(step.finished_requests)
        self.preemptions += step.num_preempted_reqs

    def report(self) -> dict[str, Any]:
        """Figures for the record."""
        return {
            "seconds": round(self.rates.seconds, 2),
            "output_tokens_per_second": round(self.rates.output, 1),
            "prompt_tokens_per_second": round(self.rates.prompts, 1),
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
