"""A process that runs real vLLM engines one after another and answers over a socket.

Importing vLLM takes longer than most tests, so all tests share one import. Each call names a
function below; its result, or the exception that it raised as text, goes back.
"""

import gc
import os
import sys
from contextlib import redirect_stdout
from io import StringIO
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any, get_args

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}

import torch
from vllm import LLM, SamplingParams
from vllm.config import cache
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.model_executor.layers.attention import Attention
from vllm.platforms import current_platform

from kvarn.engine.check import main as run_check
from kvarn.engine.plugin import register
from kvarn.format.layout import TILE_TOKENS
from kvarn.format.packing import decode, encode
from kvarn.format.reference import dequantise, quantise
from tests.support.tiny_model import write_tiny_model

HOOKED = ("check_and_update_config", "get_attn_backend_cls")

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


def check(options: list[str]) -> tuple[int, list[str]]:
    """Status and lines of ``kvarn.engine.check``."""
    screen = StringIO()
    with redirect_stdout(screen):
        status = run_check(options)
    return status, screen.getvalue().splitlines()


def generate(
    *, model: str, options: dict[str, Any], rounds: list[list[list[int]]], tokens: int
) -> dict[str, Any]:
    """Greedy tokens of rounds of prompts, each round submitted at once to the same engine."""
    llm = LLM(model, **DEFAULTS | options)
    outputs = [_complete(llm, prompts, tokens) for prompts in rounds]
    metrics = {metric.name: getattr(metric, "value", None) for metric in llm.get_metrics()}
    return {
        "tokens": [[list(output.outputs[0].token_ids) for output in round_] for round_ in outputs],
        "cached": [[output.num_cached_tokens for output in round_] for round_ in outputs],
        "preemptions": metrics["vllm:num_preemptions"],
    }


def capacity_tokens(*, model: str, options: dict[str, Any]) -> int:
    """What vLLM reports as the size of its cache."""
    llm = LLM(model, **DEFAULTS | options)
    reported: int = llm.llm_engine.vllm_config.cache_config.kv_cache_size_tokens
    return reported


def compare_pages(
    *, model: str, options: dict[str, Any], prompt: list[int]
) -> list[dict[str, Any]]:
    """For each layer, what its pages hold after a prompt, against what the model computed.

    Returns:
        ``pages``: how many pages equal the reference's bytes of each closed tile; ``errors``: the
        relative errors of the keys and of the values in them; ``bytes``: of one tile.
    """
    llm = LLM(model, **DEFAULTS | options)
    seen: dict[str, list[torch.Tensor]] = {}
    layers = _attention_layers(llm)
    for layer in layers:
        layer.register_forward_pre_hook(
            lambda module, rows: seen.__setitem__(
                module.layer_name, [row.clone() for row in rows[1:]]
            )
        )
    _complete(llm, [prompt], 1)
    return [_compare(layer, *seen[layer.layer_name]) for layer in layers]


def forget_pages(
    *, model: str, options: dict[str, Any], prompt: list[int], tokens: int
) -> list[Any]:
    """Tokens of one prompt three times: fresh; from pages wiped to zero; from pages put back."""
    llm = LLM(model, **DEFAULTS | options | {"enable_prefix_caching": True})
    packed = [layer.kv_cache for layer in _attention_layers(llm)]
    first = _complete(llm, [prompt], tokens)
    kept = [pages.clone() for pages in packed]
    for pages in packed:
        pages.zero_()
    wiped = _complete(llm, [prompt], tokens)
    for pages, before in zip(packed, kept, strict=True):
        pages.copy_(before)
    back = _complete(llm, [prompt], tokens)
    return [list(run[0].outputs[0].token_ids) for run in (first, wiped, back)]


def _compare(layer: Any, keys: torch.Tensor, values: torch.Tensor) -> dict[str, Any]:
    layout, pages = layer.impl.layout, layer.kv_cache
    heads = layer.num_kv_heads
    tiles = [
        rows.view(len(rows), heads, -1)[: len(rows) // TILE_TOKENS * TILE_TOKENS]
        .view(-1, TILE_TOKENS, heads, layout.head_dim)
        .transpose(1, 2)
        for rows in (keys, values)
    ]
    want = encode(layout, quantise(layout, *tiles))
    stored = pages.flatten(-2)
    same = (stored[:, None] == want).all(dim=-1).all(dim=-1)
    found = stored[same.int().argmax(dim=0)]
    errors = [
        float((got - row).norm() / row.norm())
        for got, row in zip(dequantise(layout, decode(layout, found)), tiles, strict=True)
    ]
    return {"pages": same.sum(dim=0).tolist(), "errors": errors, "bytes": layout.tile_bytes}


def _attention_layers(llm: LLM) -> list[Any]:
    context = llm.llm_engine.vllm_config.compilation_config.static_forward_context
    return [layer for layer in context.values() if isinstance(layer, Attention)]


def _complete(llm: LLM, prompts: list[list[int]], tokens: int) -> list[Any]:
    asked = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    given = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs: list[Any] = llm.generate(given, asked, use_tqdm=False)
    return outputs


CALLS = {
    call.__name__: call
    for call in (
        *(write_model, register_again, check, generate, capacity_tokens),
        *(compare_pages, forget_pages),
    )
}


def main(address: str) -> None:
    """Answer calls until the other side hangs up."""
    with Client(address) as line:
        while True:
            try:
                name, arguments = line.recv()
            except EOFError:
                return
            try:
                answer = (True, CALLS[name](**arguments))
            except Exception as error:  # whatever it is, it belongs to the caller
                answer = (False, f"{type(error).__name__}: {error}")
            gc.collect()
            cleanup_dist_env_and_memory()
            line.send(answer)


if __name__ == "__main__":
    main(sys.argv[1])
