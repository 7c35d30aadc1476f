"""What vLLM's own functions make of layers that a model would announce to it, as JSON.

Reads {model: [{kind, layers, …, blockTokens, pageBytes}]} and writes {model: {blocks, concurrency,
tokens}}. With a format as the argument, kinds are under it as on a GPU, and say nothing of pages. A
program of its own, because importing vLLM warns.
"""

import json
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.platforms.interface import Platform
from vllm.v1 import kv_cache_interface as interface
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.flash_attn import FlashAttentionBackend
from vllm.v1.core import kv_cache_utils
from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

from kvarn.engine.backend import BACKENDS
from kvarn.engine.layers import settle_layers
from kvarn.engine.plugin import register

CACHE_BYTES = 64 << 30
BATCHED_TOKENS = 2048
IN_FLIGHT_TOKENS = 2 * BATCHED_TOKENS
LONGEST_TOKENS = 32768


def configuration() -> Any:
    """A configuration with what the cache functions look at."""
    config = VllmConfig()
    config.cache_config.kv_cache_layout = "LBNHC"
    config.cache_config.mamba_cache_mode = "align"
    config.scheduler_config.disable_hybrid_kv_cache_manager = False
    config.scheduler_config.max_num_batched_tokens = BATCHED_TOKENS
    config.scheduler_config.async_scheduling = True
    config.model_config = SimpleNamespace(
        max_model_len=LONGEST_TOKENS, use_mla=False, is_hybrid=False, dtype=torch.bfloat16
    )
    assert config.max_in_flight_tokens == IN_FLIGHT_TOKENS
    return config


def spec(kind: dict[str, Any]) -> Any:
    """A layer of this kind as vLLM's models describe it."""
    plain = {"block_size": kind["blockTokens"], "dtype": torch.bfloat16}
    heads = {"num_kv_heads": kind["kvHeads"], "head_size": kind["headDim"]}
    values = {"head_size_v": kind["valueDim"] or kind["headDim"]}
    match kind["kind"]:
        case "full":
            return interface.FullAttentionSpec(**plain, **heads, **values)
        case "window":
            window = {"sliding_window": kind["windowTokens"]}
            return interface.SlidingWindowSpec(**plain, **heads, **values, **window)
        case "chunk":
            chunk = {"attention_chunk_size": kind["windowTokens"]}
            return interface.ChunkedLocalAttentionSpec(**plain, **heads, **chunk)
        case "latent":
            return interface.MLAAttentionSpec(**plain, **heads)
        case "index":
            index = {"num_kv_heads": 1, "head_size": kind["tokenBytes"], "dtype": torch.uint8}
            return interface.MLAAttentionSpec(**(plain | index))
    return interface.MambaSpec(
        block_size=kind["blockTokens"],
        shapes=((kind["stateBytes"],),),
        dtypes=(torch.uint8,),
        page_size_padded=kind["pageBytes"],
        mamba_cache_mode="align",
    )


class Layer(SimpleNamespace, AttentionLayerBase):
    """What vLLM's attention layer knows of its pages."""

    kv_sharing_target_layer_name = None
    attn_type = AttentionType.DECODER
    get_kv_cache_spec = Attention.get_kv_cache_spec
    get_attn_backend = Attention.get_attn_backend


def layer(kind: dict[str, Any], cache_format: str) -> Layer:
    """A layer of this kind on a GPU, under the format if it has no window."""
    windowed = kind["kind"] == "window"
    return Layer(
        attn_backend=FlashAttentionBackend if windowed else BACKENDS[cache_format],
        kv_cache_dtype="auto" if windowed else cache_format,
        kv_cache_torch_dtype=torch.bfloat16 if windowed else torch.uint8,
        sliding_window=kind["windowTokens"] or None,
        num_kv_heads=kind["kvHeads"],
        head_size=kind["headDim"],
        head_size_v=kind["headDim"],
        impl=SimpleNamespace(),
    )


def tiled(config: Any, kinds: list[dict[str, Any]], cache_format: str) -> dict[str, Any]:
    """Pages of layers under a format, those with a window first."""
    layers = config.compilation_config.static_forward_context
    layers.clear()
    for kind in sorted(kinds, key=lambda kind: kind["kind"], reverse=True):
        for number in range(kind["layers"]):
            layers[f"{kind['kind']}.{number}"] = layer(kind, cache_format)
    heads, head_dim = kinds[0]["kvHeads"], kinds[0]["headDim"]
    config.cache_config.cache_dtype = cache_format
    config.cache_config.kv_cache_dtype_skip_layers = ["sliding_window"]
    config.cache_config.skip_page_size_padded = None
    config.cache_config.kv_cache_layout = "BLHNC"
    config.model_config.get_num_kv_heads = lambda _parallel: heads
    config.model_config.get_head_size = lambda: head_dim
    settle_layers(config)
    Platform.update_block_size_for_backend(config)
    return dict(get_kv_cache_spec(config))


def announced(config: Any, kinds: list[dict[str, Any]]) -> dict[str, Any]:
    """Pages as the kinds state them."""
    return {
        f"{kind['kind']}.{number}": spec(kind) for kind in kinds for number in range(kind["layers"])
    }


def capacity(config: Any, layers: dict[str, Any]) -> dict[str, float]:
    """Blocks, concurrency and tokens of a cache of `CACHE_BYTES`."""
    groups = kv_cache_utils.get_kv_cache_groups(config, layers)
    cache = kv_cache_utils.get_kv_cache_config_from_groups(config, groups, CACHE_BYTES)
    tokens, concurrency = kv_cache_utils.get_kv_cache_capacity(config, cache)
    return {"blocks": cache.num_blocks, "concurrency": concurrency, "tokens": tokens}


if __name__ == "__main__":
    asked, found, under = json.load(sys.stdin), configuration(), sys.argv[1:]
    if under:
        register()
    pages = partial(tiled, cache_format=under[0]) if under else announced
    print(
        json.dumps({model: capacity(found, pages(found, kinds)) for model, kinds in asked.items()})
    )
