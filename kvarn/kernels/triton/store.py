"""Complete tiles, from the model's keys and values straight into their pages.

One program stores the keys or the values of one tile and KV head: rows from before this step come
from the sequence's tail page, the others from the step's tokens.
"""

import torch
import triton
import triton.language as tl

from kvarn.kernels.batch import LayerCache
from kvarn.kernels.triton.arguments import Pages, Rows, Sequences
from kvarn.kernels.triton.parts import stages
from kvarn.kernels.triton.rotate import signs
from kvarn.kernels.triton.step import NULL, TILE, Step, load_segment
from kvarn.kernels.triton.tile import copy_tile, quantise_tile, slab_channels

PROGRAMS = 256
"""Programs that keep a large GPU busy; in a step of single tokens there are hardly more.

Few of its segments complete a tile, and a program without work still takes its turn."""

LANES = tl.constexpr(32)
"""Segments of one program, at most."""


def store_tiles(
    step: Step,
    cache: LayerCache,
    *,
    keys: torch.Tensor,
    values: torch.Tensor,
    faults: torch.Tensor | None = None,
) -> None:
    """Store the tiles that a step completes, except those of dummy sequences.

    Args:
        step: the batch.
        cache: the layer's pages; the tails as the step found them.
        keys: ``[tokens, H, D]`` of the new tokens, as the model made them; channels contiguous.
        values: likewise.
        faults: int64 ``[1]``; the number of elements that are not finite is added. They count as
            zero, but raw tiles hold them.
    """
    layout, heads = cache.layout, cache.packed.shape[1]
    single = step.segment_sequence is None
    share = step.segments * heads * 2 // PROGRAMS if single else 1
    segments_each = min(max(share, 1), LANES.value)
    _store[(triton.cdiv(step.segments, segments_each), heads, 2)](
        Sequences.of(step, cache),
        step.batch.table.stride(0),
        cache.tail_page.stride(0),
        step.segments,
        Pages.of(cache.packed),
        Pages.of(cache.tail),
        Rows.of(keys),
        Rows.of(values),
        signs(layout, keys.dtype, keys.device),
        faults,
        LAYOUT=layout,
        SEVERAL=segments_each > 1,
        num_warps=slab_channels(layout) // 16,
        num_stages=stages(layout),
    )


@triton.jit(do_not_specialize=["table_stride", "tail_stride", "segments"])
def _store(
    sequences: Sequences,
    table_stride: tl.tensor,
    tail_stride: tl.tensor,
    segments: tl.tensor,
    packed: Pages,
    tail: Pages,
    keys: Rows,
    values: Rows,
    matrix: tl.tensor,
    faults: tl.tensor | None,
    LAYOUT: tl.constexpr,
    SEVERAL: tl.constexpr,
) -> None:
    """The keys or the values of a head, of one segment or of several; the grid is ``(·, H, 2)``."""
    index = tl.program_id(0)
    if SEVERAL:
        index += tl.arange(0, LANES) * tl.num_programs(0)
    _, _, first, end, _ = load_segment(
        sequences.starts,
        sequences.lengths,
        sequences.segment_sequence,
        sequences.segment_tile,
        tl.minimum(index, segments - 1),
    )
    closes = (index < segments) & (first < end) & (end == TILE)
    where = (sequences, table_stride, tail_stride)
    if SEVERAL:
        for _ in tl.range(tl.sum(closes.to(tl.int32), 0), disable_licm=True):
            chosen = tl.min(tl.where(closes, index, segments), 0)
            closes = closes & (index != chosen)
            _store_segment(*where, chosen, packed, tail, keys, values, matrix, faults, LAYOUT)
    elif closes:
        _store_segment(*where, index, packed, tail, keys, values, matrix, faults, LAYOUT)


@triton.jit
def _store_segment(
    sequences: Sequences,
    table_stride: tl.tensor,
    tail_stride: tl.tensor,
    index: tl.tensor,
    packed: Pages,
    tail: Pages,
    keys: Rows,
    values: Rows,
    matrix: tl.tensor,
    faults: tl.tensor | None,
    LAYOUT: tl.constexpr,
) -> None:
    """The program's half of a segment that completes its tile."""
    sequence, tile, first, _, origin = load_segment(
        sequences.starts,
        sequences.lengths,
        sequences.segment_sequence,
        sequences.segment_tile,
        index,
    )
    at = sequences.table + sequence.to(tl.int64) * table_stride + tile
    page = tl.load(at).to(tl.int64)
    if page != NULL:
        head = tl.program_id(1).to(tl.int64)
        place = packed.pointer + page * packed.page_stride + head * packed.head_stride
        page = tl.load(sequences.tail_page + sequence * tail_stride).to(tl.int64)
        old = tail.pointer + page * tail.page_stride + head * tail.head_stride
        if tl.program_id(2) == 0:
            new = keys.pointer + origin.to(tl.int64) * keys.token_stride
            source = (first, old, new + head * keys.head_stride, keys.token_stride)
            _store_rows(place, source, matrix, faults, LAYOUT, "key", LAYOUT.format.key_bits)
        else:
            new = values.pointer + origin.to(tl.int64) * values.token_stride
            old += LAYOUT.head_dim
            source = (first, old, new + head * values.head_stride, values.token_stride)
            _store_rows(place, source, matrix, faults, LAYOUT, "value", LAYOUT.format.value_bits)


@triton.jit
def _store_rows(
    tile: tl.tensor,
    source: tl.tuple,
    matrix: tl.tensor,
    faults: tl.tensor | None,
    LAYOUT: tl.constexpr,
    OF: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    if LAYOUT.format.is_raw:
        copy_tile(tile, source, faults, LAYOUT, OF)
    else:
        quantise_tile(tile, source, matrix, faults, LAYOUT, OF, BITS)
