"""Cache formats as the planner sees them: bytes of a block, and how fast it is read."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kvarn.format.layout import FORMATS as TILE_FORMATS
from kvarn.format.layout import HEAD_DIMS, TILE_TOKENS, TileLayout
from kvarn.planner.accelerators import Accelerator
from kvarn.planner.layer_kind import LayerKind
from kvarn.planner.refusals import dtype_on, refuse_fp8, refuse_plain, refuse_tiles
from kvarn.planner.shape import ModelShape
from kvarn.planner.version import LATEST, EngineVersion

GPU_BLOCK_TOKENS = 16
CPU_BLOCK_TOKENS = 128
"""vLLM's default block sizes (`CacheConfig.DEFAULT_BLOCK_SIZE`, `CpuPlatform`)."""

PLAIN_SHARE, FP8_SHARE, TILE_SHARE = 0.935, 0.64, 0.94
"""Of the data sheet's bandwidth, what decoding reads a cache with: FlashAttention 3 on bf16 and on
fp8, our kernels on tiles."""

FP8_SECONDS, TILE_SECONDS = 7.4e-6, 2.7e-6
"""What a layer of a step takes besides, more than with bf16: to quantise the queries, or to store
tiles and combine results. All of these are fitted to the steps of two models on an H200, with the
rates of roofline.py (`python -m bench.roofline_fit`)."""

TILE_LEAD_SECONDS = 4.5e-6
"""How much less the latter is where a layer reads next to nothing: waiting for first tiles grows
until every warp has one. Steps of four hosts say 6.1 to 8.3 µs (the same command); less stands, for
no step of less than 1,024 tokens was measured."""

TILE_PACES = {"kvarn_k4v3_g128": 0.94, "kvarn_k3v3_g128": 0.65}
"""Of `TILE_SHARE`, what tiles of three bits are read with, whose codes take more instructions to
unpack. No server was measured with them: kernels alone say so, beside those for other tiles (the
same command)."""

PORTABLE_SHARE = 0.5
"""Bandwidth of our kernels in Triton, on an H100."""

OPEN_TOKENS = TILE_TOKENS // 2
"""Of a sequence's last tile, on average, which decoding reads as the model made it."""

NATIVE_CAPABILITY = 9.0
"""From where on tiles have kernels in CUDA C++."""

ENGINE_CHOICE = "auto"
"""vLLM's word for a cache in the model's precision, if neither checkpoint nor model says otherwise:
see `CacheFormat.engine_dtype`."""
SCHEMED = ("modelopt", "compressed-tensors")
"""How quantisations begin whose checkpoints may bring an 8-bit cache, which vLLM takes them up on
(`resolve_kv_cache_dtype_string`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheFormat:
    """A precision of the KV cache.

    Attributes:
        name: as in the resource's `cache.format`.
        kv_cache_dtype: vLLM's `--kv-cache-dtype`, as a rule.
        kind_bytes: (shape, kind) -> bytes of one token for one KV head of one such layer.
        refusal: (shape, device, version) -> why this format cannot serve the model, empty if it
            can.
        bandwidth_share: device -> of the data sheet's bandwidth, what attention reads such a cache
            with when it decodes.
        layer_seconds: what a layer of a step takes beside that, more than with a plain cache.
        lead_seconds: what of these it does not take where next to nothing is read.
        tiled: whether blocks are tiles, and each sequence's open tile lies in tail pages.
    """

    name: str
    kv_cache_dtype: str
    kind_bytes: Callable[[ModelShape, LayerKind], int]
    refusal: Callable[[ModelShape, Accelerator, EngineVersion], str]
    bandwidth_share: Callable[[Accelerator], float]
    layer_seconds: float
    lead_seconds: float
    tiled: bool

    def engine_dtype(
        self, shape: ModelShape, device: Accelerator, version: EngineVersion = LATEST
    ) -> str:
        """The `--kv-cache-dtype` that gives the model this format.

        In the model's precision, the type by its name where vLLM would take another by itself: that
        of the checkpoint's scheme, or for sparse attention 8 bits (`GlmMoeDsaForCausalLM`). Old
        releases' 8 bits are planned for. Attention on a CPU takes no type by name.
        """
        otherwise = shape.quantization.startswith(SCHEMED) or shape.is_sparse
        kept = device.is_cpu or (shape.is_sparse and version.packs_sparse_latents)
        if self.kv_cache_dtype != ENGINE_CHOICE or kept or not otherwise:
            return self.kv_cache_dtype
        return dtype_on(shape, device)

    def token_bytes(self, shape: ModelShape) -> int:
        """Bytes of one token for one KV head of one of the model's usual layers."""
        return self.kind_bytes(shape, shape.kinds[0])

    def read_bytes(self, shape: ModelShape, kind: LayerKind, tokens: int) -> int:
        """Bytes that decoding reads of a sequence for one KV head of one such layer."""
        open_tokens = min(tokens, OPEN_TOKENS) if self.tiled else 0
        stored = (tokens - open_tokens) * self.kind_bytes(shape, kind)
        return stored + open_tokens * kind.token_numbers * shape.dtype_bytes

    def block_tokens(self, *, on_cpu: bool) -> int:
        """Tokens in one block."""
        if self.tiled:
            return TILE_TOKENS
        return CPU_BLOCK_TOKENS if on_cpu else GPU_BLOCK_TOKENS


def _plain(
    name: str,
    kv_cache_dtype: str,
    element_bytes: int | None,
    bandwidth_share: float,
    layer_seconds: float,
) -> CacheFormat:
    return CacheFormat(
        name=name,
        kv_cache_dtype=kv_cache_dtype,
        kind_bytes=lambda shape, kind: kind.token_numbers * (element_bytes or shape.dtype_bytes),
        refusal=refuse_fp8 if element_bytes == 1 else refuse_plain,
        bandwidth_share=lambda _device: bandwidth_share,
        layer_seconds=layer_seconds,
        lead_seconds=0.0,
        tiled=False,
    )


def _tiled(name: str) -> CacheFormat:
    return CacheFormat(
        name=name,
        kv_cache_dtype=name,
        kind_bytes=lambda _shape, kind: (
            TileLayout(TILE_FORMATS[name], kind.head_dim).bytes_per_token
        ),
        refusal=partial(refuse_tiles, TILE_FORMATS[name]),
        bandwidth_share=partial(_tile_share, name),
        layer_seconds=TILE_SECONDS,
        lead_seconds=TILE_LEAD_SECONDS,
        tiled=True,
    )


def _tile_share(name: str, device: Accelerator) -> float:
    if device.capability < NATIVE_CAPABILITY:
        return PORTABLE_SHARE
    return TILE_SHARE * TILE_PACES.get(name, 1.0)


def _tile_names() -> list[str]:
    """The formats of quantised tiles, the largest first."""
    quantised = [known for known in TILE_FORMATS.values() if not known.is_raw]
    sizes = {known.name: TileLayout(known, HEAD_DIMS[-1]).bytes_per_token for known in quantised}
    return sorted(sizes, key=lambda name: -sizes[name])


FORMATS: dict[str, CacheFormat] = {
    cache_format.name: cache_format
    for cache_format in (
        _plain("bf16", ENGINE_CHOICE, None, PLAIN_SHARE, 0.0),
        _plain("fp8", "fp8", 1, FP8_SHARE, FP8_SECONDS),
        *map(_tiled, _tile_names()),
    )
}
"""Every format, from the largest to the smallest cache."""
