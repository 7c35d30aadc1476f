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
from dataclasses import dataclass
from enum import Enum, auto

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
    page_bytes = cache_format.page_bytes(shape, kv_heads=kv_heads, on_cpu=accelerator.is_cpu)
    block_tokens = cache_format.block_tokens(on_cpu=accelerator.is_cpu)
    if tail_page_bytes := cache_format.tail_page_bytes(shape, kv_heads=kv_heads):
        return _packed(shape.layers, page_bytes, tail_page_bytes, block_tokens)
    return _equal_pages(shape, page_bytes, block_tokens)


def _packed(layers: int, page_bytes: int, tail_page_bytes: int, block_tokens: int) -> CacheLayout:
    """Tiles in one group; tails in as many groups as keep them within the tiles' block."""
    block_bytes = max(layers * page_bytes, tail_page_bytes)
    tail_groups = ceil_div(layers, block_bytes // tail_page_bytes)
    tiles = Layers(reach=Reach.ALL, count=layers, page_bytes=page_bytes, block_tokens=block_tokens)
    tails = Layers(
        reach=Reach.OPEN_TILE,
        count=ceil_div(layers, tail_groups),
        page_bytes=tail_page_bytes,
        block_tokens=block_tokens,
    )
    return CacheLayout((tiles, *[tails] * tail_groups), block_bytes)


def _equal_pages(shape: ModelShape, page_bytes: int, block_tokens: int) -> CacheLayout:
    """Layers of one page size, split by reach into groups of equal length."""
    kinds = [(Reach.ALL, shape.full_layers), (Reach.WINDOW, shape.sliding_layers)]
    present = [(reach, count) for reach, count in kinds if count]
    length = _group_length([count for _, count in present])
    groups = [
        Layers(
            reach=reach,
            count=length,
            page_bytes=page_bytes,
            block_tokens=block_tokens,
            window_tokens=shape.sliding_window_tokens,
        )
        for reach, count in present
        for _ in range(ceil_div(count, length))
    ]
    return CacheLayout(tuple(groups), length * page_bytes)


def _group_length(counts: Sequence[int]) -> int:
    """Layers in a group: the rarer kind's count, or the other's where they are close.

    Source: `_get_kv_cache_groups_uniform_page_size`.
    """
    fewest, most = min(counts), max(counts)
    return most if most < fewest * 1.5 else fewest
