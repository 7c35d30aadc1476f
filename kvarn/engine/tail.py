"""The shadow layer that holds an attention layer's open tiles in pages of vLLM's pool."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from typing_extensions import override
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionCGSupport,
    AttentionMetadata,
    AttentionMetadataBuilder,
    CommonAttentionMetadata,
)
from vllm.v1.kv_cache_interface import KVCacheLayout, KVCacheSpec

from kvarn.engine.specs import TailSpec
from kvarn.format.layout import TILE_TOKENS


@dataclass
class TailMetadata(AttentionMetadata):
    """Tail pages of a batch.

    Attributes:
        page: ``[sequences]`` on the device.
    """

    page: torch.Tensor


class TailMetadataBuilder(AttentionMetadataBuilder[TailMetadata]):
    """Takes the one page of each sequence from the block table."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    @override
    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> TailMetadata:
        """Metadata of one batch for all tails of a group.

        The page numbers are a view of vLLM's own table, which captured graphs go on reading.
        """
        return TailMetadata(page=common_attn_metadata.block_table_tensor[:, 0])

    @classmethod
    @override
    def get_cudagraph_support(
        cls, vllm_config: VllmConfig, kv_cache_spec: KVCacheSpec
    ) -> AttentionCGSupport:
        """Nothing here depends on the batch."""
        return AttentionCGSupport.ALWAYS


class TailBackend(AttentionBackend):
    """Tells vLLM how to lay out tail pages; no attention is computed here."""

    supported_dtypes: ClassVar[list[torch.dtype]] = []

    @staticmethod
    def get_name() -> str:
        """Name in vLLM's logs."""
        return "KVARN_TAIL"

    @staticmethod
    def get_impl_cls() -> type:
        """There is none: the attention layer reads and writes the pages."""
        raise NotImplementedError("A tail page has no attention of its own.")

    @staticmethod
    def get_builder_cls() -> type[TailMetadataBuilder]:
        """Builder of the metadata."""
        return TailMetadataBuilder

    @classmethod
    def supports_batch_invariance(cls) -> bool:
        """Nothing is computed."""
        return True

    @staticmethod
    @override
    def get_supported_kernel_block_sizes(
        kv_cache_spec: KVCacheSpec | None = None,
    ) -> list[int]:
        """Whole pages only."""
        return [TILE_TOKENS]

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        """Blocks outermost, so that pages of different sizes share the pool."""
        return (KVCacheLayout.BLHNC,)


class TailLayer(nn.Module, AttentionLayerBase):
    """The open tiles of one attention layer.

    Attributes:
        name: the attention layer's name with ``.kvarn_tail`` behind it.
        kv_cache: ``[blocks, H, 128, 2·D]`` of the model's type, bound by vLLM.
    """

    def __init__(self, *, name: str, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.name = name
        self.kv_cache = torch.empty(0)
        self._spec = TailSpec(
            block_size=TILE_TOKENS,
            num_kv_heads=kv_heads,
            head_size=head_dim,
            dtype=dtype,
            dcp_sharded=False,
        )

    def get_attn_backend(self) -> type[AttentionBackend]:
        """As vLLM asks every layer with a cache."""
        return TailBackend

    @override
    def get_kv_cache_spec(
        self,
        vllm_config: VllmConfig,
    ) -> KVCacheSpec:
        """As vLLM asks every layer with a cache."""
        return self._spec
