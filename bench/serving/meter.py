"""Counts what an engine does, step by step, as vLLM itself reports it."""

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, SchedulerStats


@dataclass
class Window:
    """Steps between two moments.

    Attributes:
        began: when the first step reported, whose tokens are not counted, in seconds of Unix time.
        ended: when the last one reported.
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
    tokens: int = 0
    prompt_tokens: int = 0
    first_token_seconds: list[float] = field(default_factory=list)
    gap_seconds: list[float] = field(default_factory=list)
    finished: int = 0
    preemptions: int = 0
    usage: list[float] = field(default_factory=list)
    running: list[int] = field(default_factory=list)

    def add(self, step: IterationStats) -> None:
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

    def report(self) -> dict[str, Any]:
        """Figures for the record."""
        seconds = self.ended - self.began
        return {
            "seconds": round(seconds, 2),
            "output_tokens_per_second": round(self.tokens / seconds, 1) if seconds else 0.0,
            "prompt_tokens_per_second": round(self.prompt_tokens / seconds, 1) if seconds else 0.0,
            "requests_finished": self.finished,
            "preemptions": self.preemptions,
            "running": round(fmean(self.running or [0]), 1),
            "cache_usage": round(fmean(self.usage or [0.0]), 3),
            "first_token_ms": percentiles(self.first_token_seconds),
            "inter_token_ms": percentiles(self.gap_seconds),
        }


class Meter(StatLoggerBase):  # type: ignore[misc]
    """The engine's load now, and the window that is open.

    Attributes:
        running: sequences in the last step.
        usage: share of the cache in use.
        window: counts every step; put a fresh one here to count from now on.
    """

    def __init__(self) -> None:
        self.running, self.usage = 0, 0.0
        self.window = Window()

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        *_others: object,
        **_more: object,
    ) -> None:
        """Take in what vLLM reports of a step."""
        if scheduler_stats is not None:
            self.running = scheduler_stats.num_running_reqs
            self.usage = scheduler_stats.kv_cache_usage
            self.window.running.append(self.running)
            self.window.usage.append(self.usage)
        if iteration_stats is not None:
            self.window.add(iteration_stats)

    def rest(self) -> None:
        """Nothing runs any more, of which vLLM reports no step."""
        self.running, self.usage = 0, 0.0

    def log_engine_initialized(self) -> None:
        """Nothing to say."""


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds, and of how many; empty of none."""
    if not seconds:
        return {}
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "count": len(seconds)}
