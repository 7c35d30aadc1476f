"""Cache arithmetic: blocks and tokens as vLLM counts them.

vLLM sorts layers into groups. A block is a block in every layer of one group; all groups draw
blocks from one pool, so blocks have one size, that of the widest group, and a request takes
blocks from each group. With `n` blocks in the pool and `b` per request of maximal length `m`:

    kv_cache_max_concurrency = n / b
    kv_cache_size_tokens     = int(kv_cache_max_concurrency · m)

Source: `get_kv_cache_groups`, `_get_packed_kv_cache_groups`, `_get_kv_cache_bytes_per_block`,
`get_max_concurrency_for_kv_cache_config` and `_check_enough_kv_cache_memory` in
`vllm/v1/core/kv_cache_utils.py` (0.32; `kv_cache_planning.py` since 0.33).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto

from kvarn.format.layout import tail_bytes
from kvarn.planner.accelerators import Accelerator
from kvarn.planner.formats import CacheFormat
from kvarn.planner.shape import ModelShape


def ceil_div(dividend: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-dividend // divisor)


class Reach(Enum):
    """Which tokens a layer keeps."""

    ALL = auto()
    WINDOW = auto()
    OPEN_TILE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Layers with pages of one kind, on one device.

    Attributes:
        count: how many.
        page_bytes: bytes of one block in one layer.
        block_tokens: tokens in one block.
        window_tokens: how far a `WINDOW` layer looks back.
    """

    reach: Reach
    count: int
    page_bytes: int
    block_tokens: int
    window_tokens: int = 0

    def request_blocks(self, tokens: int, *, in_flight_tokens: int) -> int:
        """Blocks that a request of `tokens` tokens takes in a group of such layers.

        A window is extended by the tokens in flight (those of one step, of two when vLLM
        schedules ahead), and by one block because it may begin in the middle of a block
        (`SlidingWindowSpec.max_admission_blocks_per_request`).
        """
        if self.reach is Reach.OPEN_TILE:
            return 1
        if self.reach is Reach.ALL:
            return ceil_div(tokens, self.block_tokens)
        held = min(self.window_tokens - 1 + in_flight_tokens, tokens)
        return ceil_div(held, self.block_tokens) + 1


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """The groups of a model's cache on one device, and the size of a block.

    Attributes:
        groups: each a number of equal layers that share a block table.
        block_bytes: bytes of one block of the pool.
    """

    groups: tuple[Layers, ...]
    block_bytes: int

    def request_blocks(self, tokens: int, *, in_flight_tokens: int) -> int:
        """Blocks of the pool that a request of `tokens` tokens takes, over all groups."""
        return sum(
            group.request_blocks(tokens, in_flight_tokens=in_flight_tokens) for group in self.groups
        )

    def blocks(self, cache_bytes: int) -> int:
        """Blocks in a pool of `cache_bytes`; vLLM keeps one of them empty."""
        return max(cache_bytes, 0) // self.block_bytes

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


def kv_heads_per_device(shape: ModelShape, accelerator: Accelerator) -> int:
    """KV heads on each device; copied when there are fewer heads than devices."""
    return max(1, shape.kv_heads // accelerator.count)


def cache_layout(
    shape: ModelShape, accelerator: Accelerator, cache_format: CacheFormat
) -> CacheLayout:
    """How vLLM lays the cache of one device out."""
    kv_heads = kv_heads_per_device(shape, accelerator)
    block_tokens = cache_format.block_tokens(on_cpu=accelerator.is_cpu)
    page_bytes = block_tokens * kv_heads * cache_format.token_bytes(shape)
    full = Layers(
        reach=Reach.ALL,
        count=shape.full_layers,
        page_bytes=page_bytes,
        block_tokens=block_tokens,
    )
    sliding = replace(
        full,
        reach=Reach.WINDOW,
        count=shape.sliding_layers,
        window_tokens=shape.sliding_window_tokens,
    )
    if not cache_format.tiled:
        return _equal_pages([kind for kind in (full, sliding) if kind.count])
    raw_bytes = tail_bytes(
        kv_heads=kv_heads, head_dim=shape.head_dim, element_bytes=shape.dtype_bytes
    )
    tails = replace(full, reach=Reach.OPEN_TILE, page_bytes=raw_bytes)
    return _packed(full, tails, replace(sliding, page_bytes=raw_bytes))


def _packed(tiles: Layers, *states: Layers) -> CacheLayout:
    """Tiles in one group; tails and windows in as many as keep them within the tiles' block.

    A window's page holds 128 tokens in the model's precision, as a tail's does.
    """
    block_bytes = max(tiles.count * tiles.page_bytes, *(kind.page_bytes for kind in states))
    groups = [tiles]
    for kind in states:
        parts = ceil_div(kind.count, block_bytes // kind.page_bytes)
        groups += [replace(kind, count=ceil_div(kind.count, parts))] * parts if parts else []
    return CacheLayout(tuple(groups), block_bytes)


def _equal_pages(kinds: Sequence[Layers]) -> CacheLayout:
    """Layers of one page size, split by reach into groups of equal length."""
    length = _group_length([kind.count for kind in kinds])
    groups = [
        replace(kind, count=length) for kind in kinds for _ in range(ceil_div(kind.count, length))
    ]
    return CacheLayout(tuple(groups), length * kinds[0].page_bytes)


def _group_length(counts: Sequence[int]) -> int:
    """Layers in a group: the rarer kind's count, or the other's where they are close.

    Source: `_get_kv_cache_groups_uniform_page_size`.
    """
    fewest, most = min(counts), max(counts)
    return most if most < fewest * 1.5 else fewest
