"""What vLLM's own functions make of layers that a model would announce to it, as JSON.

Reads {model: [{kind, layers, …, blockTokens, pageBytes}]} and writes {model: {blocks, concurrency,
tokens}}. A program of its own, because importing vLLM warns.
"""

import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1 import kv_cache_interface as interface
from vllm.v1.core import kv_cache_utils

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
    config.model_config = SimpleNamespace(max_model_len=LONGEST_TOKENS, use_mla=False)
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


def capacity(config: Any, kinds: list[dict[str, Any]]) -> dict[str, float]:
    """Blocks, concurrency and tokens of a cache of `CACHE_BYTES`."""
    layers = {
        f"{kind['kind']}.{number}": spec(kind) for kind in kinds for number in range(kind["layers"])
    }
    groups = kv_cache_utils.get_kv_cache_groups(config, layers)
    cache = kv_cache_utils.get_kv_cache_config_from_groups(config, groups, CACHE_BYTES)
    tokens, concurrency = kv_cache_utils.get_kv_cache_capacity(config, cache)
    return {"blocks": cache.num_blocks, "concurrency": concurrency, "tokens": tokens}


if __name__ == "__main__":
    asked, found = json.load(sys.stdin), configuration()
    print(json.dumps({model: capacity(found, kinds) for model, kinds in asked.items()}))
