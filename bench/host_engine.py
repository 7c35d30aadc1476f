"""vLLM's engine core over a worker that computes nothing, for :mod:`bench.scheduling`."""

import time
from collections import defaultdict
from pathlib import Path

from typing_extensions import override
from vllm import EngineArgs, SamplingParams
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor.uniproc_executor import UniProcExecutor
from vllm.v1.kv_cache_interface import KVCacheSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec
from vllm.v1.worker.worker_base import CompilationTimes, WorkerBase

from kvarn.engine.construction import make_layers
from kvarn.engine.plugin import register

PROMPT_TOKENS = 1025
LONGEST_TOKENS = 32_768
STEP_TOKENS = 16_384
MEMORY_BYTES = 1 << 39
"""Of a cache that nobody allocates, and that holds all requests."""
TOKEN = 7
"""What every request is answered with, again and again."""


class HostEngine:
    """An engine core whose requests have all begun.

    Attributes:
        cache_format: vLLM's name of it.
        groups: of pages, for each of which the scheduler works for each request in each step.
    """

    def __init__(self, model: Path, cache_format: str, sequences: int) -> None:
        register()
        self.cache_format = cache_format
        config = EngineArgs(
            model=str(model),
            kv_cache_dtype=cache_format,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=LONGEST_TOKENS,
            max_num_seqs=sequences,
            max_num_batched_tokens=STEP_TOKENS,
            enable_prefix_caching=True,
        ).create_engine_config()
        config.parallel_config.worker_cls = f"{Idle.__module__}.{Idle.__qualname__}"
        config.scheduler_config.async_scheduling = True  # which CPUs do without
        self._core = EngineCore(config, UniProcExecutor, log_stats=True)
        self.groups = len(self._core.scheduler.kv_cache_config.kv_cache_groups)
        for number in range(sequences):
            self._core.add_request(*self._core.preprocess_add_request(_request(number)))
        while self._core.scheduler.waiting:
            self.step()
        self.step()

    def step(self) -> float:
        """Plan one step and take the results of the one before: seconds of the processor."""
        begin = time.thread_time()
        self._core.step_fn()
        return time.thread_time() - begin


def _request(number: int) -> EngineCoreRequest:
    wanted = SamplingParams(
        temperature=0, max_tokens=LONGEST_TOKENS, ignore_eos=True, detokenize=False
    )
    return EngineCoreRequest(
        request_id=str(number),
        prompt_token_ids=[number + 1] * PROMPT_TOKENS,
        mm_features=None,
        sampling_params=wanted,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


class Idle(WorkerBase):
    """A worker that makes the model's layers, says what it would of them, and computes nothing."""

    @override
    def init_device(self) -> None:
        self._computed: defaultdict[str, int] = defaultdict(int)

    @override
    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        make_layers(self.vllm_config)

    @override
    def get_kv_cache_spec(self) -> dict[str, KVCacheSpec]:
        found: dict[str, KVCacheSpec] = get_kv_cache_spec(self.vllm_config)
        return found

    def determine_available_memory(self) -> int:
        """Bytes for the cache."""
        return MEMORY_BYTES

    def get_supported_tasks(self) -> tuple[str, ...]:
        """As every model."""
        return ("generate",)

    def initialize_from_config(self, _config: object) -> None:
        """No page is allocated."""

    @override
    def compile_or_warm_up_model(self) -> CompilationTimes:
        return CompilationTimes(0.0, 0.0)

    @override
    def execute_model(self, scheduler_output: SchedulerOutput) -> None:
        self._planned = scheduler_output.num_scheduled_tokens

    @override
    def sample_tokens(self, grammar_output: object) -> ModelRunnerOutput:
        """A token for every request whose prompt is computed."""
        for request, tokens in self._planned.items():
            self._computed[request] += tokens
        return ModelRunnerOutput(
            req_ids=list(self._planned),
            req_id_to_index={request: index for index, request in enumerate(self._planned)},
            sampled_token_ids=[
                [TOKEN] if self._computed[request] >= PROMPT_TOKENS else []
                for request in self._planned
            ],
        )
