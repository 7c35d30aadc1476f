"""The attention backend: vLLM's interfaces on one side, the kernels on the other."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from typing_extensions import override
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.forward_context import get_forward_context
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionCGSupport,
    AttentionImpl,
    AttentionMetadata,
    AttentionMetadataBuilder,
    AttentionType,
    CommonAttentionMetadata,
)
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheLayout, KVCacheSpec

from kvarn.engine.choice import announce, kernels
from kvarn.engine.errors import UnsupportedError
from kvarn.engine.faults import faults_on
from kvarn.engine.specs import PackedSpec, packed_page
from kvarn.engine.tail import Tail
from kvarn.format.layout import FORMATS, HEAD_DIMS, TILE_TOKENS, TileFormat, TileLayout
from kvarn.kernels.batch import Batch, Counts, LayerCache


@dataclass
class KVarnMetadata(AttentionMetadata):
    """A batch, as all layers see it.

    Attributes:
        step: what the kernels made of it.
        tokens: new tokens of the batch; vLLM's tensors may be longer.
    """

    step: Any
    tokens: int


class KVarnMetadataBuilder(AttentionMetadataBuilder[KVarnMetadata]):
    """Builds a batch's metadata on the host, once for all layers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        announce(self.vllm_config.cache_config.cache_dtype)
        self._kernels = kernels()
        self._faults = faults_on(self.device)

    @classmethod
    @override
    def get_cudagraph_support(
        cls, vllm_config: VllmConfig, kv_cache_spec: KVCacheSpec
    ) -> AttentionCGSupport:
        """Steps of single tokens are captured whole, where the kernels can be."""
        if kernels().captures:
            return AttentionCGSupport.UNIFORM_SINGLE_TOKEN_DECODE
        return AttentionCGSupport.NEVER

    @override
    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> KVarnMetadata:
        """Metadata of one batch."""
        self._faults.look()
        common = common_attn_metadata
        batch = Batch(
            starts=common.query_start_loc[: common.num_reqs + 1],
            lengths=common.seq_lens[: common.num_reqs],
            table=common.block_table_tensor[: common.num_reqs],
            tokens=common.num_actual_tokens,
            most_new=common.max_query_len,
            longest=common.max_seq_len,
            counts=_counts(common) if common.max_query_len > 1 else None,
        )
        return KVarnMetadata(step=self._kernels.prepare(batch), tokens=batch.tokens)


def _counts(common: CommonAttentionMetadata) -> Counts | None:
    """What the host knows of the sequences, if vLLM tells it."""
    lengths = common.seq_lens_cpu_upper_bound
    if lengths is None:
        return None
    starts = common.query_start_loc_cpu[: common.num_reqs + 1]
    return Counts(starts.diff().tolist(), lengths[: common.num_reqs].tolist())


class KVarnImpl(AttentionImpl[KVarnMetadata]):
    """Attention of one layer.

    Attributes:
        tail: where its open tiles are; kvarn.engine.layers tells when all layers are made.
    """

    tail: Tail

    @override
    def __init__(
        self,
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int | None = None,
        alibi_slopes: list[float] | None = None,
        sliding_window: int | None = None,
        kv_cache_dtype: str = "auto",
        logits_soft_cap: float | None = None,
        attn_type: str = AttentionType.DECODER,
        kv_sharing_target_layer_name: str | None = None,
        **others: Any,
    ) -> None:
        unsupported = {
            "ALiBi": alibi_slopes,
            "sliding windows": sliding_window,
            "caches shared between layers": kv_sharing_target_layer_name,
            "attention that is not causal": attn_type != AttentionType.DECODER,
            **others,
        }
        for feature, value in unsupported.items():
            if value:
                raise UnsupportedError(
                    f"{kv_cache_dtype} does not serve models with {feature}; "
                    "use --kv-cache-dtype auto."
                )
        self.num_heads = num_heads
        self.head_size = head_size
        self.num_kv_heads = num_kv_heads or num_heads
        self.scale = scale
        self.soft_cap = logits_soft_cap or 0.0
        self.kv_cache_dtype = kv_cache_dtype
        self.layout = TileLayout(FORMATS[kv_cache_dtype], head_size)
        self._kernels = kernels()
        config = get_current_vllm_config()
        self._sequences = config.scheduler_config.max_num_seqs

    @override
    def forward(
        self,
        layer: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: KVarnMetadata | None,
        output: torch.Tensor,
        output_scale: torch.Tensor | None = None,
        output_block_scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention of a batch, written into ``output`` ``[tokens, Hq, D]``.

        vLLM profiles its memory with calls that have no metadata: those get zeros, take the memory
        that the kernels need beside the cache, and compile them.
        """
        if attn_metadata is None:
            self._kernels.reserve(
                self.layout,
                query,
                group=self.num_heads // self.num_kv_heads,
                soft_cap=self.soft_cap,
                sequences=self._sequences,
            )
            return output.fill_(0)
        tokens = slice(attn_metadata.tokens)
        cache = LayerCache(
            layout=self.layout,
            packed=kv_cache,
            tail=self.tail.tiles,
            tail_page=self.tail.pages(get_forward_context().attn_metadata),
            faults=faults_on(query.device).count,
        )
        self._kernels.attend_and_store(
            attn_metadata.step,
            cache,
            query=query[tokens],
            keys=key[tokens],
            values=value[tokens],
            scale=self.scale,
            out=output[tokens],
            soft_cap=self.soft_cap,
        )
        return output


class KVarnBackend(AttentionBackend):
    """What all formats share; a format is a subclass, because vLLM asks classes, not objects."""

    tile_format: ClassVar[TileFormat]
    supported_dtypes: ClassVar[list[torch.dtype]] = [torch.float16, torch.bfloat16, torch.float32]

    @staticmethod
    def get_name() -> str:
        """Name under which the plugin registers the backend."""
        return "KVARN"

    @staticmethod
    def get_impl_cls() -> type[KVarnImpl]:
        """Attention of one layer."""
        return KVarnImpl

    @staticmethod
    def get_builder_cls() -> type[KVarnMetadataBuilder]:
        """Builder of the metadata."""
        return KVarnMetadataBuilder

    @staticmethod
    @override
    def get_supported_kernel_block_sizes(
        kv_cache_spec: KVCacheSpec | None = None,
    ) -> list[int]:
        """A block holds one tile of each head."""
        return [TILE_TOKENS]

    @classmethod
    def get_supported_head_sizes(cls) -> list[int]:
        """Head dimensions that have a layout."""
        return list(HEAD_DIMS)

    @classmethod
    def supports_kv_cache_dtype(cls, kv_cache_dtype: str | None) -> bool:
        """Only the class's own format."""
        return kv_cache_dtype == cls.tile_format.name

    @classmethod
    def supports_batch_invariance(cls) -> bool:
        """Every query is computed in the same order whatever is beside it, if that is asked for."""
        return True

    @classmethod
    def supports_kv_connector(cls) -> bool:
        """A connector would move packed pages without their tails."""
        return False

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        """Blocks outermost, so that pages of different sizes share the pool."""
        return (KVCacheLayout.BLHNC,)

    @classmethod
    def customize_spec(cls, spec: FullAttentionSpec) -> PackedSpec:
        """The page of packed tiles in place of the page that vLLM would make."""
        return packed_page(spec, TileLayout(cls.tile_format, spec.head_size))


class K4V2Backend(KVarnBackend):
    """4-bit keys, 2-bit values."""

    tile_format = FORMATS["kvarn_k4v2_g128"]


class K3V3Backend(KVarnBackend):
    """3-bit keys and values."""

    tile_format = FORMATS["kvarn_k3v3_g128"]


class K4V3Backend(KVarnBackend):
    """4-bit keys, 3-bit values."""

    tile_format = FORMATS["kvarn_k4v3_g128"]


class K4V4Backend(KVarnBackend):
    """4-bit keys and values."""

    tile_format = FORMATS["kvarn_k4v4_g128"]


class RawBackend(KVarnBackend):
    """Tiles that are not quantised, for tests."""

    tile_format = FORMATS["kvarn_raw_g128"]


BACKENDS: Mapping[str, type[KVarnBackend]] = MappingProxyType(
    {
        backend.tile_format.name: backend
        for backend in (K4V2Backend, K3V3Backend, K4V3Backend, K4V4Backend, RawBackend)
    }
)
"""Backends by the name of their format."""
