"""vLLM's own CPU attention for layers that stay out of the format, beside layers that are in it.

It reads pages by their strides, so it can take part in a pool whose blocks are outermost; and its
metadata must be built for the layer's cache type, where it would take the run's. It also multiplies
what lies behind a sequence's last token with zero, and packed tiles read as numbers may be NaN. On
GPUs vLLM clears such blocks before they are used.
"""

from copy import copy
from typing import Any

import torch
from typing_extensions import override
from vllm.config import VllmConfig
from vllm.v1.attention.backends.cpu_attn import (
    CPUAttentionBackend,
    CPUAttentionBackendImpl,
    CPUAttentionMetadataBuilder,
)
from vllm.v1.kv_cache_interface import AttentionSpec, KVCacheLayout


class SkippedLayerMetadataBuilder(CPUAttentionMetadataBuilder):
    """Sees a configuration without the format."""

    def __init__(
        self,
        kv_cache_spec: AttentionSpec,
        layer_names: list[str],
        vllm_config: VllmConfig,
        device: torch.device,
        **others: Any,
    ) -> None:
        shown = copy(vllm_config)
        shown.cache_config = copy(vllm_config.cache_config)
        shown.cache_config.cache_dtype = "auto"
        super().__init__(kv_cache_spec, layer_names, shown, device, **others)


class SkippedLayerImpl(CPUAttentionBackendImpl):
    """Clears a page when its first token comes."""

    @override
    def do_kv_cache_update(
        self,
        layer: torch.nn.Module,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        slot_mapping: torch.Tensor,
    ) -> None:
        """Store keys and values of a batch's tokens, each in its slot of ``[blocks · tokens]``."""
        block_tokens = kv_cache.shape[2]
        opened = slot_mapping[slot_mapping % block_tokens == 0] // block_tokens
        kv_cache[opened] = 0
        super().do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)


class SkippedLayerBackend(CPUAttentionBackend):
    """vLLM's CPU attention on a pool whose blocks are outermost."""

    @staticmethod
    def get_impl_cls() -> type[SkippedLayerImpl]:
        """Attention of one layer."""
        return SkippedLayerImpl

    @staticmethod
    def get_builder_cls() -> type[SkippedLayerMetadataBuilder]:
        """Builder of the metadata."""
        return SkippedLayerMetadataBuilder

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        """As the packed pages demand."""
        return (KVCacheLayout.BLHNC,)
