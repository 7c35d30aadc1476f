"""Counts what an engine does, step by step, as vLLM itself reports it."""

from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

from bench.serving.window import Window


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
