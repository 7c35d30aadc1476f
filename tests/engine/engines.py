"""Engines of a real vLLM inside the host's process, one after another."""

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
import vllm
from torch._dynamo.utils import counters
from vllm import LLM, SamplingParams
from vllm.config import VllmConfig, cache
from vllm.lora.request import LoRARequest
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.models import llama
from vllm.platforms import current_platform
from vllm.platforms.interface import DeviceCapability
from vllm.v1.core.sched.async_scheduler import AsyncScheduler

from kvarn.engine.check import main as run_check
from kvarn.engine.plugin import register
from tests.support.tiny_model import write_tiny_model

HOOKED = (
    "check_and_update_config",
    "get_attn_backend_cls",
    "update_block_size_for_backend",
    "register_custom_kv_cache_specs",
)

DEFAULTS = {
    "dtype": "float32",
    "enforce_eager": True,
    "distributed_executor_backend": "uni",
    "disable_log_stats": False,
    "max_model_len": 2048,
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 256 << 20,
    "enable_prefix_caching": False,
}


def version() -> str:
    """The release that this process imports."""
    return str(vllm.__version__)


def write_model(folder: str, changes: dict[str, Any]) -> None:
    """A random model on disk."""
    write_tiny_model(Path(folder), **changes)


def register_again() -> dict[str, Any]:
    """What a second registration leaves: the names that vLLM accepts, and whether hooks moved."""
    register()
    before = [getattr(current_platform, name) for name in HOOKED]
    register()
    after = [getattr(current_platform, name) for name in HOOKED]
    names = getattr(cache, "KV_CACHE_DTYPES", get_args(cache.CacheDType))  # since vLLM 0.33
    return {"names": list(names), "hooks_stay": before == after}


def check(
    options: list[str], *, gpu: tuple[int, int] | None = None, value_dim: int | None = None
) -> tuple[int, list[str]]:
    """Status and lines of ``kvarn.engine.check``.

    As it were on a GPU of some capability, and as if a Llama had values of so many channels.
    """
    screen = StringIO()
    with redirect_stdout(screen), _as_if_on(gpu), pytest.MonkeyPatch.context() as patch:
        if value_dim:
            patch.setattr(llama, "Attention", partial(Attention, head_size_v=value_dim))
        status = run_check(options)
    return status, screen.getvalue().splitlines()


def capacity(
    *, model: str, options: dict[str, Any], gpu: tuple[int, int] | None = None
) -> dict[str, int]:
    """What vLLM reports of its cache, and the longest sequence that it takes."""
    with _as_if_on(gpu):
        config = start(model, options).llm_engine.vllm_config
    return {
        "tokens": config.cache_config.kv_cache_size_tokens,
        "longest": config.model_config.max_model_len,
    }


@contextmanager
def _as_if_on(gpu: tuple[int, int] | None) -> Iterator[None]:
    """Let the plugin see a GPU, in what it asks vLLM of the platform."""
    with pytest.MonkeyPatch.context() as patch:
        if gpu:
            capability = DeviceCapability(*gpu)
            patch.setattr(type(current_platform), "device_name", "cuda")
            patch.setattr(current_platform, "get_device_capability", lambda: capability)
        yield


def generate(
    *,
    model: str,
    options: dict[str, Any],
    rounds: list[list[list[int]]],
    tokens: int,
    adapter: str | None = None,
) -> dict[str, Any]:
    """Greedy tokens of rounds of prompts, each round submitted at once to the same engine.

    Returns:
        ``tokens`` and ``cached``, the prompt's tokens found in the cache, by round and prompt;
        ``preemptions``; ``graphs`` that were compiled; whether steps were scheduled ``ahead``.
    """
    counters.clear()
    llm = start(model, options)
    lora = LoRARequest("adapter", 1, adapter) if adapter else None
    outputs = [complete(llm, prompts, tokens, lora=lora) for prompts in rounds]
    return {
        "tokens": [[list(output.outputs[0].token_ids) for output in round_] for round_ in outputs],
        "cached": [[output.num_cached_tokens for output in round_] for round_ in outputs],
        "preemptions": metric(llm, "vllm:num_preemptions"),
        "graphs": counters["stats"]["unique_graphs"],
        "ahead": isinstance(scheduler(llm), AsyncScheduler),
    }


def generate_ahead(**arguments: Any) -> dict[str, Any]:
    """``generate`` with a step scheduled while the one before it runs, as on GPUs.

    vLLM switches this off for CPUs, and its CPU workers are able to do it.
    """
    platform = type(current_platform)
    checked = platform.check_and_update_config

    def check_and_schedule_ahead(config: VllmConfig) -> None:
        checked(config)
        config.scheduler_config.async_scheduling = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(platform, "check_and_update_config", staticmethod(check_and_schedule_ahead))
        return generate(**arguments)


def generate_divided(**arguments: Any) -> dict[str, Any]:
    """``generate`` in worker processes of its own."""
    options = arguments.pop("options") | {"distributed_executor_backend": "mp"}
    with pytest.MonkeyPatch.context() as patch:
        # A vocabulary that is split compiles to C++, eager or not.
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        return generate(options=options, **arguments)


def generate_reloaded(**arguments: Any) -> dict[str, Any]:
    """``generate`` with the weights loaded again after each round, as a trainer has it done."""
    usual = complete

    def complete_and_reload(llm: LLM, *others: Any, **options: Any) -> list[Any]:
        outputs = usual(llm, *others, **options)
        llm.collective_rpc("reload_weights")
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "complete", complete_and_reload)
        return generate(**arguments)


def start(model: str, options: dict[str, Any]) -> LLM:
    """A small engine; options change its defaults."""
    return LLM(model, **DEFAULTS | options)


def complete(
    llm: LLM, prompts: list[list[int]], tokens: int, *, lora: LoRARequest | None = None
) -> list[Any]:
    """Greedy completions of prompts that are submitted at once."""
    given = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs: list[Any] = llm.generate(given, greedy(tokens), use_tqdm=False, lora_request=lora)
    return outputs


def greedy(tokens: int) -> SamplingParams:
    """Exactly so many of the likeliest tokens."""
    return SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)


def metric(llm: LLM, name: str) -> Any:
    """A counter's value."""
    return next(each.value for each in llm.get_metrics() if each.name == name)


def scheduler(llm: LLM) -> Any:
    """The engine's scheduler, which is in this process."""
    return llm.llm_engine.engine_core.engine_core.scheduler
