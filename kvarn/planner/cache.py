"""Cache arithmetic: blocks and tokens as vLLM counts them.

vLLM sorts layers into groups. A block is a block in every layer of one group; all groups draw
blocks from one pool, so blocks have one size, that of the widest group, and a request takes
blocks from each group. With `n` blocks in the pool and `b` per request of maximal length `m`:

    kv_cache_max_concurrency = n / b
    kv_cache_size_tokens     = int(kv_cache_max_concurrency · m)

Before 0.21 the tokens were those of the blocks that one group has if all share equally.

Source: `get_kv_cache_groups`, `_get_packed_kv_cache_groups`, `unify_kv_cache_spec_page_size`,
`get_max_concurrency_for_kv_cache_config` and `_check_enough_kv_cache_memory` in
`vllm/v1/core/kv_cache_utils.py` (0.32; `kv_cache_planning.py` since 0.33), and
`_align_hybrid_block_size` in `vllm/platforms/interface.py`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from kvarn.format.layout import TILE_TOKENS, WINDOW_TOKENS, tail_bytes, tail_pages
from kvarn.planner.accelerators import Accelerator
from kvarn.planner.formats import CacheFormat
from kvarn.planner.layer_kind import LayerKind
from kvarn.planner.shape import ModelShape
from kvarn.planner.version import LATEST, EngineVersion

STATE_ALIGNMENT_TOKENS = 16
"""Blocks beside recurrent states have a multiple of so many tokens (`_align_hybrid_block_size`)."""
LATENT_ALIGNMENT_TOKENS = 128
"""The same where attention is latent."""
PACKED_LATENT_BYTES = 656
"""`fp8_ds_mla`: 512 numbers in 8 bits, four scales in 32, 64 numbers in 16."""


def ceil_div(dividend: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-dividend // divisor)


class Reach(Enum):
    """Which tokens a layer keeps."""

    ALL = auto()
    WINDOW = auto()
    CHUNK = auto()
    FIXED = auto()
    """As much for every request: a recurrent state, or the open tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Layers with pages of one kind, on one device.

    Attributes:
        count: how many.
        page_bytes: bytes of one block in one layer.
        block_tokens: tokens in one block.
        window_tokens: how far a `WINDOW` layer looks back, how long a `CHUNK` is.
        fixed_blocks: blocks of a request in `FIXED` layers.
    """

    reach: Reach
    count: int
    page_bytes: int
    block_tokens: int
    window_tokens: int = 0
    fixed_blocks: int = 1

    def request_blocks(self, tokens: int, *, in_flight_tokens: int) -> int:
        """Blocks that a request of `tokens` tokens takes in a group of such layers.

        A window is extended by the tokens in flight (those of one step, of two when vLLM
        schedules ahead), and by one block because it may begin in the middle of a block
        (`SlidingWindowSpec.max_admission_blocks_per_request`).
        """
        if self.reach is Reach.FIXED:
            return self.fixed_blocks
        if self.reach is Reach.ALL:
            return ceil_div(tokens, self.block_tokens)
        if self.reach is Reach.CHUNK:
            return ceil_div(min(self.window_tokens + in_flight_tokens, tokens), self.block_tokens)
        held = min(self.window_tokens - 1 + in_flight_tokens, tokens)
        return ceil_div(held, self.block_tokens) + 1


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """The groups of a model's cache on one device, and the size of a block.

    Attributes:
        groups: each a number of layers that share a block table.
        block_bytes: bytes of one block of the pool.
        by_length: whether vLLM reports tokens by the longest request (since 0.21).
    """

    groups: tuple[Layers, ...]
    block_bytes: int
    by_length: bool = True

    def request_blocks(self, tokens: int, *, in_flight_tokens: int) -> int:
        """Blocks of the pool that a request of `tokens` tokens takes, over all groups."""
        return sum(
            group.request_blocks(tokens, in_flight_tokens=in_flight_tokens) for group in self.groups
        )

    def blocks(self, cache_bytes: int) -> int:
        """Blocks in a pool of `cache_bytes`; vLLM keeps one of them empty."""
        return max(cache_bytes, 0) // self.block_bytes

    def reported_tokens(self, blocks: int, tokens: int, request_blocks: int) -> int:
        """The `kv_cache_size_tokens` of vLLM, with its order of operations in floating point.

        Args:
            blocks: in the pool.
            tokens: of the longest request.
            request_blocks: blocks that such a request takes.
        """
        if self.by_length:
            return int(blocks / request_blocks * tokens)
        counted = [group for group in self.groups if group.reach is not Reach.FIXED]
        return blocks // len(self.groups) * min(group.block_tokens for group in counted)

    def longest_tokens(self, cache_bytes: int, *, at_most: int, in_flight_tokens: int) -> int:
        """Longest request, up to `at_most` tokens, that vLLM admits; 0 when not one token is."""
        usable = self.blocks(cache_bytes) - 1
        low, high = 0, at_most
        while low < high:
            middle = ceil_div(low + high, 2)
            if self.request_blocks(middle, in_flight_tokens=in_flight_tokens) <= usable:
                low = middle
            else:
                high = middle - 1
        return low


def cache_layout(
    shape: ModelShape,
    accelerator: Accelerator,
    cache_format: CacheFormat,
    version: EngineVersion = LATEST,
) -> CacheLayout:
    """How vLLM lays the cache of one device out: of the stage with the most layers, if many."""
    kinds = [
        replace(kind, layers=ceil_div(kind.layers, accelerator.stages)) for kind in shape.kinds
    ]
    found = _merged(_layers(kind, shape, accelerator, cache_format, version) for kind in kinds)
    if cache_format.tiled:
        return _tiled(shape, accelerator, found)
    if all(layer.reach is Reach.ALL for layer in found):
        # One block table serves layers whose pages differ (`UniformTypeKVCacheSpecs`).
        block_bytes = sum(layer.count * layer.page_bytes for layer in found)
        return CacheLayout((found[0],), block_bytes, version.counts_by_length)
    groups, block_bytes = _equal_pages(_unified(_aligned(found, latent=_has_latent(kinds))))
    return CacheLayout(groups, block_bytes, version.counts_by_length)


def _merged(found: Iterable[Layers]) -> list[Layers]:
    """Layers that differ in nothing but their number, together."""
    counts: Counter[Layers] = Counter()
    for layer in found:
        alike = replace(layer, count=0, window_tokens=_seen_window(layer))
        counts[alike] += layer.count
    return [replace(layer, count=count) for layer, count in counts.items()]


def _seen_window(layer: Layers) -> int:
    return 0 if layer.reach is Reach.ALL else layer.window_tokens


def _has_latent(kinds: Sequence[LayerKind]) -> bool:
    return any(kind.kind == "latent" for kind in kinds)


def _layers(
    kind: LayerKind,
    shape: ModelShape,
    accelerator: Accelerator,
    cache_format: CacheFormat,
    version: EngineVersion,
) -> Layers:
    """Layers of one kind before their pages are made equal."""
    block_tokens = cache_format.block_tokens(on_cpu=accelerator.is_cpu)
    if kind.kind == "state":
        return Layers(
            reach=Reach.FIXED,
            count=kind.layers,
            page_bytes=ceil_div(kind.state_bytes, accelerator.count),
            block_tokens=block_tokens,
            fixed_blocks=version.state_blocks,
        )
    packed = kind.kind == "latent" and _packs_latents(shape, cache_format, version)
    token_bytes = PACKED_LATENT_BYTES if packed else kind.token_bytes
    if not token_bytes:
        heads = accelerator.kv_heads(kind.kv_heads)
        token_bytes = heads * cache_format.kind_bytes(shape, kind)
    return Layers(
        reach=_reach(kind, version),
        count=kind.layers,
        page_bytes=block_tokens * token_bytes,
        block_tokens=block_tokens,
        window_tokens=kind.window_tokens,
    )


def _packs_latents(shape: ModelShape, cache_format: CacheFormat, version: EngineVersion) -> bool:
    """Whether latents lie in DeepSeek's own 8-bit layout, as sparse attention wants them."""
    return shape.is_sparse and (cache_format.name == "fp8" or version.packs_sparse_latents)


def _reach(kind: LayerKind, version: EngineVersion) -> Reach:
    if kind.kind == "window":
        return Reach.WINDOW
    return Reach.CHUNK if kind.kind == "chunk" and version.keeps_chunks else Reach.ALL


def _tiled(shape: ModelShape, accelerator: Accelerator, found: Sequence[Layers]) -> CacheLayout:
    """Tiles in one group, and tails; windows in as many as keep them within the tiles' block.

    In the model's precision, an open tile holds as many tokens as a tile, and a window's page
    `WINDOW_TOKENS`.
    """
    (tiles,) = (layer for layer in found if layer.reach is Reach.ALL)
    raw_bytes = tail_bytes(
        kv_heads=accelerator.kv_heads(shape.kv_heads),
        head_dim=shape.head_dim,
        element_bytes=shape.dtype_bytes,
    )
    held, pages = tail_pages(
        (shape.fewest_tiled(accelerator.stages), tiles.count),
        packed_bytes=tiles.page_bytes,
        raw_bytes=raw_bytes,
    )
    tails = replace(
        tiles, reach=Reach.FIXED, count=1, page_bytes=held * raw_bytes, fixed_blocks=pages
    )
    windows = [
        replace(
            layer,
            page_bytes=raw_bytes * WINDOW_TOKENS // TILE_TOKENS,
            block_tokens=WINDOW_TOKENS,
        )
        for layer in found
        if layer is not tiles
    ]
    block_bytes = max(tiles.count * tiles.page_bytes, raw_bytes)
    groups = [tiles, tails]
    for window in windows:
        groups += _split(window, ceil_div(window.count, block_bytes // window.page_bytes))
    return CacheLayout(tuple(groups), block_bytes)


def _split(layers: Layers, parts: int) -> list[Layers]:
    return [replace(layers, count=ceil_div(layers.count, parts))] * parts


def _aligned(found: list[Layers], *, latent: bool) -> list[Layers]:
    """Attention's blocks made long enough for their pages to hold a recurrent state."""
    state = max((layer.page_bytes for layer in found if layer.reach is Reach.FIXED), default=0)
    attention = [layer for layer in found if layer.reach is not Reach.FIXED]
    if not state or not attention:
        return found
    least = max(
        attention[0].block_tokens, LATENT_ALIGNMENT_TOKENS if latent else STATE_ALIGNMENT_TOKENS
    )
    token_bytes = max(layer.page_bytes // layer.block_tokens for layer in attention)
    block_tokens = least * ceil_div(state, least * token_bytes)
    return [
        layer if layer.reach is Reach.FIXED else _with_block(layer, block_tokens) for layer in found
    ]


def _with_block(layer: Layers, block_tokens: int) -> Layers:
    page_bytes = layer.page_bytes // layer.block_tokens * block_tokens
    return replace(layer, block_tokens=block_tokens, page_bytes=page_bytes)


def _unified(found: list[Layers]) -> list[Layers]:
    """Pages of one size: smaller ones take more tokens, or are filled up."""
    largest = max(layer.page_bytes for layer in found)
    return [_widened(layer, largest) for layer in found]


def _widened(layer: Layers, page_bytes: int) -> Layers:
    times, rest = divmod(page_bytes, layer.page_bytes)
    if layer.reach is Reach.FIXED or rest:
        return replace(layer, page_bytes=page_bytes)
    return replace(layer, page_bytes=page_bytes, block_tokens=times * layer.block_tokens)


def _equal_pages(kinds: Sequence[Layers]) -> tuple[tuple[Layers, ...], int]:
    """Layers of one page size, split by kind into groups of equal length, and a block's bytes."""
    length = _group_length([kind.count for kind in kinds])
    groups = [
        replace(kind, count=length) for kind in kinds for _ in range(ceil_div(kind.count, length))
    ]
    return tuple(groups), length * kinds[0].page_bytes


def _group_length(counts: Sequence[int]) -> int:
    """Layers in a group: the rarer kind's count, or the other's where they are close.

    Source: `_get_kv_cache_groups_uniform_page_size`.
    """
    fewest, most = min(counts), max(counts)
    return most if most < fewest * 1.5 else fewest
