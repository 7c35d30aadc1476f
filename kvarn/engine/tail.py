"""The shadow layer that holds the attention layers' open tiles in pages of vLLM's pool."""

from collections.abc import Mapping
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
from kvarn.format.layout import TILE_TOKENS, TailPages


@dataclass
class TailMetadata(AttentionMetadata):
    """Tail pages of a batch.

    Attributes:
        pages: ``[sequences, ·]`` on the device, of which the first :attr:`TailSpec.pages` columns
            are used.
    """

    pages: torch.Tensor


class TailMetadataBuilder(AttentionMetadataBuilder[TailMetadata]):
    """Takes the pages of each sequence from the block table."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    @override
    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> TailMetadata:
        """Metadata of one batch for all its tails.

        The page numbers are vLLM's own table, which captured graphs go on reading.
        """
        return TailMetadata(pages=common_attn_metadata.block_table_tensor)

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
    """The open tiles of all attention layers under a format, those of one stage of a pipeline.

    They lie in one group of pages, because what vLLM's scheduler does for each request in each step
    it does for each group: docs/decisions/0010-one-group-of-tails.md.

    Attributes:
        name: the first of those layers' name with ``.kvarn_tail`` behind it, unique to the stage.
        kv_cache: ``[blocks, tails · H, 128, 2·D]`` of the model's type, once vLLM has bound it. It
            is in a list, as the states of other layers are: vLLM clears the part of a new block
            that a layer's tensor shows, and of open tiles nobody reads what was not written.
    """

    def __init__(
        self, *, name: str, kv_heads: int, head_dim: int, dtype: torch.dtype, layout: TailPages
    ) -> None:
        super().__init__()
        self.name = name
        self.kv_cache: list[torch.Tensor] = []
        self._kv_heads, self._layout = kv_heads, layout
        self._spec = TailSpec(
            block_size=TILE_TOKENS,
            num_kv_heads=layout.tails * kv_heads,
            head_size=head_dim,
            dtype=dtype,
            dcp_sharded=False,
            pages=layout.pages,
        )

    def tail(self, number: int) -> "Tail":
        """The open tiles of one layer, counted from zero among those under the format."""
        page, place = divmod(number, self._layout.tails)
        first = place * self._kv_heads
        return Tail(self, page, slice(first, first + self._kv_heads))

    @override
    def bind_kv_cache(self, kv_cache: torch.Tensor) -> None:
        """Take the pages that vLLM has allocated."""
        self.kv_cache = [kv_cache]

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


@dataclass(frozen=True)
class Tail:
    """Where one layer's open tiles are.

    Attributes:
        owner: the layer whose pages they lie in.
        page: which of a sequence's tail pages.
        heads: which heads of a page.
    """

    owner: TailLayer
    page: int
    heads: slice

    @property
    def tiles(self) -> torch.Tensor:
        """``[blocks, H, 128, 2·D]`` of the model's type."""
        (pages,) = self.owner.kv_cache
        return pages[:, self.heads]

    def pages(self, metadata: Mapping[str, Any]) -> torch.Tensor:
        """``[sequences]`` page of each sequence of a batch, of vLLM's metadata by layer."""
        found: TailMetadata = metadata[self.owner.name]
        return found.pages[:, self.page]
