"""Layers as a stage of a pipeline has them, none of which is computed: vLLM runs none on CPUs."""

from types import SimpleNamespace
from typing import Any

import torch
from vllm import EngineArgs
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheSpec

from kvarn.engine.backend import BACKENDS
from kvarn.engine.layers import settle_layers
from kvarn.engine.managers import register_managers
from kvarn.engine.specs import packed_page
from kvarn.engine.tail import TailLayer
from kvarn.format.layout import FORMATS, TILE_TOKENS, TileLayout, tail_bytes, tail_pages

try:
    from vllm.v1.core import kv_cache_planning as planning  # since 0.33
except ImportError:
    planning = None


def stage_groups(
    *, model: str, options: dict[str, Any], stages: list[int]
) -> list[list[tuple[int, int]]]:
    """For each stage, with so many layers, the layers of each group and its blocks of a request."""
    config = _configuration(model, options, len(stages))
    config.cache_config.kv_cache_layout = "BLHNC"
    heads, head_dim = config.model_config.get_num_kv_heads(config.parallel_config), 64
    layout = TileLayout(FORMATS[options["kv_cache_dtype"]], head_dim)
    base = FullAttentionSpec(
        block_size=TILE_TOKENS, num_kv_heads=heads, head_size=head_dim, dtype=torch.bfloat16
    )
    placed = tail_pages(
        stages,
        packed_bytes=heads * layout.tile_bytes,
        raw_bytes=tail_bytes(kv_heads=heads, head_dim=head_dim, element_bytes=2),
    )
    workers: list[dict[str, KVCacheSpec]] = []
    for stage, layers in enumerate(stages):
        owner = TailLayer(
            name=str(stage), kv_heads=heads, head_dim=head_dim, dtype=torch.bfloat16, layout=placed
        )
        packed = {f"{stage}.{number}": packed_page(base, layout) for number in range(layers)}
        workers.append(packed | {owner.name: owner.get_kv_cache_spec(config)})
    register_managers()
    with set_current_vllm_config(config):
        caches = _configured(config, workers)
    return [
        [
            (len(group.layer_names), _pages(config, group.kv_cache_spec))
            for group in cache.kv_cache_groups
        ]
        for cache in caches
    ]


def settle(
    *, model: str, options: dict[str, Any], stages: int, heads: list[int]
) -> list[tuple[int, int, int]]:
    """For each layer of a stage, with so many KV heads, its tail page and the heads in it.

    Raises:
        UnsupportedError: the plugin refuses the layers.
    """
    config = _configuration(model, options, stages)
    layers = config.compilation_config.static_forward_context
    layers.clear()
    for number, count in enumerate(heads):
        layers[f"layers.{number}.attn"] = SimpleNamespace(
            get_attn_backend=lambda: BACKENDS[options["kv_cache_dtype"]],
            kv_cache_dtype=options["kv_cache_dtype"],
            num_kv_heads=count,
            head_size=64,
            head_size_v=64,
            impl=SimpleNamespace(),
        )
    settle_layers(config)
    tails = [layer.impl.tail for layer in layers.values() if not isinstance(layer, TailLayer)]
    return [(tail.page, tail.heads.start, tail.heads.stop) for tail in tails]


def _configuration(model: str, options: dict[str, Any], stages: int) -> VllmConfig:
    parallel = {"pipeline_parallel_size": stages, "distributed_executor_backend": "mp"}
    return EngineArgs(model, **options | parallel).create_engine_config()


def _configured(config: VllmConfig, workers: list[dict[str, KVCacheSpec]]) -> list[KVCacheConfig]:
    memory = [1 << 30] * len(workers)
    if planning is None:
        return kv_cache_utils.get_kv_cache_configs(config, workers, memory)
    groups = planning.get_global_kv_cache_groups(config, workers)
    return planning.get_kv_cache_configs(config, workers, memory, groups)


def _pages(config: VllmConfig, spec: KVCacheSpec) -> int:
    return -(-spec.max_memory_usage_bytes(config) // spec.page_size_bytes)
