"""One vLLM engine with made-up weights, and requests of tokens to it.

It is vLLM's asynchronous engine in this process, that is the server without HTTP: the engine core
has a process of its own and plans ahead as in the server, and what is measured is the engine, not
how fast a client reads. Outputs come when a request ends, for hundreds of streams would cost this
process more than a step takes; times of single tokens are vLLM's own statistics.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from vllm import AsyncEngineArgs, SamplingParams
from vllm.config import VllmConfig
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from bench.serving.meter import Meter
from bench.serving.scenario import GRAPH_SIZES, Scenario
from bench.serving.scheduler import PRESUMED, presume

ENGINE: dict[str, Any] = {
    "skip_tokenizer_init": True,
    "load_format": "dummy",
    "dtype": "bfloat16",
    "enable_prefix_caching": True,
    "gpu_memory_utilization": 0.9,
    "max_num_seqs": 1024,
    "max_num_batched_tokens": 16_384,
    "disable_log_stats": False,
}
IDLE_SECONDS = 60.0
POLL_SECONDS = 0.02


class UnmeasuredError(Exception):
    """What was to be measured did not happen; the message says why."""


class Engine:
    """A running engine.

    Attributes:
        meter: of what it does.
        config: vLLM's, as completed by the start.
    """

    def __init__(self, llm: AsyncLLM, meter: Meter, config: VllmConfig) -> None:
        self._llm, self.meter, self.config = llm, meter, config
        self._tokens = np.random.default_rng(0)
        self._ids = count()

    @property
    def cache_tokens(self) -> int:
        """Tokens that the cache holds, of sequences of the greatest length."""
        return int(self.config.cache_config.kv_cache_size_tokens)

    @property
    def most_sequences(self) -> int:
        """That run at once at most."""
        return int(self.config.scheduler_config.max_num_seqs)

    def facts(self) -> dict[str, Any]:
        """What the start settled, for the record."""
        cache, model = self.config.cache_config, self.config.model_config
        return {
            "cache_tokens": self.cache_tokens,
            "sequences_at_once": round(float(cache.kv_cache_max_concurrency), 1),
            "max_model_len": model.max_model_len,
            "block_tokens": cache.block_size,
            "max_num_seqs": self.most_sequences,
            "max_num_batched_tokens": self.config.scheduler_config.max_num_batched_tokens,
            "gpu_memory_utilization": cache.gpu_memory_utilization,
            "cuda_graphs": getattr(self.config.compilation_config.cudagraph_mode, "name", "NONE"),
            "async_scheduling": bool(self.config.scheduler_config.async_scheduling),
            "model_runner": 2 if self.config.use_v2_model_runner else 1,
        }

    def prompts(self, amount: int, tokens: int) -> list[list[int]]:
        """Prompts that nobody has asked before."""
        vocabulary = self.config.model_config.get_vocab_size()
        drawn: list[list[int]] = self._tokens.integers(
            vocabulary // 100, vocabulary, size=(amount, tokens)
        ).tolist()
        return drawn

    async def ask(
        self, prompt: list[int], tokens: int, *, presumed: bool = False, logprobs: int | None = None
    ) -> RequestOutput:
        """Generate exactly so many tokens.

        Raises:
            UnmeasuredError: there came fewer.
        """
        wanted = SamplingParams(
            temperature=0,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            logprobs=logprobs,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=PRESUMED if presumed else None,
        )
        request = self._llm.generate({"prompt_token_ids": prompt}, wanted, str(next(self._ids)))
        (output,) = [each async for each in request]
        if (came := len(output.outputs[0].token_ids)) != tokens:
            raise UnmeasuredError(f"{came} tokens came where {tokens} were asked for")
        return output

    async def together(
        self, prompts: Sequence[list[int]], tokens: int, *, presumed: bool = False
    ) -> tuple[float, list[RequestOutput]]:
        """Seconds of requests that all wait when the engine begins, and their outputs."""
        await self._llm.pause_generation(mode="keep", clear_cache=False)
        asked = [asyncio.create_task(self.ask(each, tokens, presumed=presumed)) for each in prompts]
        await self._queued(asked)
        began = time.perf_counter()
        await self._llm.resume_generation()
        outputs = await asyncio.gather(*asked)
        return time.perf_counter() - began, list(outputs)

    async def _queued(self, asked: Sequence["asyncio.Task[RequestOutput]"]) -> None:
        """Wait until all requests lie before the engine, which is paused."""
        while any(not task.done() for task in asked):
            await asyncio.sleep(POLL_SECONDS)
            if self._llm.get_num_unfinished_requests() >= len(asked):
                await self._llm.is_paused()  # answered when all that was sent before is read
                return

    async def forget(self) -> None:
        """Empty the cache, when the last request has left it.

        Raises:
            UnmeasuredError: a request does not leave.
        """
        deadline = time.monotonic() + IDLE_SECONDS
        while not await self._llm.reset_prefix_cache():
            if time.monotonic() > deadline:
                raise UnmeasuredError(f"blocks are still in use after {IDLE_SECONDS:.0f} s")
            await asyncio.sleep(POLL_SECONDS)
        self.meter.rest()


@asynccontextmanager
async def started(model: Path, cache_format: str, scenario: Scenario) -> AsyncIterator[Engine]:
    """An engine that runs while the context lasts."""
    options = {**ENGINE, **_for_this_device(), "max_model_len": scenario.longest_tokens}
    arguments = AsyncEngineArgs(
        model=str(model), kv_cache_dtype=cache_format, **{**options, **scenario.engine}
    )
    config = arguments.create_engine_config()
    if current_platform.is_cpu():  # which asks for processes that import everything once more
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
    presume(config.scheduler_config)
    meter = Meter()
    llm = AsyncLLM.from_vllm_config(config, stat_loggers=[lambda *_: meter])
    try:
        yield Engine(llm, meter, config)
    finally:
        llm.shutdown()


def _for_this_device() -> dict[str, Any]:
    if current_platform.is_cpu():
        return {"enforce_eager": True}
    return {"compilation_config": {"cudagraph_capture_sizes": list(GRAPH_SIZES)}}
