"""Schedulers that take a prompt for computed if its request says so.

Filling an H200's cache with prompts takes minutes, and a step of decoding costs the same whatever
the cache holds. A presumed prompt gets its blocks, and their hashes are published, as if it had
been computed and had ended; the request then finds it as a prefix. Like vLLM's
``DecodeBenchConnector``, which fills every prompt and needs a format that goes with connectors.
"""

from typing import Any

from vllm.config import SchedulerConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

PRESUMED = {"kvarn_presumed": True}
"""``SamplingParams.extra_args`` of a request whose prompt is presumed in the cache."""


class _Presuming:
    """Mixed into a scheduler."""

    kv_cache_manager: Any

    def add_request(self, request: Request) -> None:
        """Queue a request; its prompt but for the last token is in the cache if presumed so."""
        wishes = request.sampling_params and request.sampling_params.extra_args
        if wishes == PRESUMED:
            self._presume(request)
        super().add_request(request)  # type: ignore[misc]

    def _presume(self, request: Request) -> None:
        """Publish the blocks of a prompt; without effect where they do not fit."""
        blocks, hits, _ = self.kv_cache_manager.get_computed_blocks(request)
        missing = request.num_tokens - 1 - hits
        if missing and self.kv_cache_manager.allocate_slots(request, missing, hits, blocks):
            self.kv_cache_manager.free(request)


class PresumingScheduler(_Presuming, Scheduler):  # type: ignore[misc]
    """vLLM's scheduler that waits for each step."""


class PresumingAsyncScheduler(_Presuming, AsyncScheduler):  # type: ignore[misc]
    """vLLM's scheduler that plans a step while the one before it runs."""


def presume(config: SchedulerConfig) -> None:
    """Put the presuming kind in place of the scheduler that vLLM chose."""
    chosen = config.get_scheduler_cls()
    config.scheduler_cls = {
        Scheduler: PresumingScheduler,
        AsyncScheduler: PresumingAsyncScheduler,
    }[chosen]
