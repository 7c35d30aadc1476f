"""Complete tiles, from the model's keys and values straight into their pages.

One program stores the keys or the values of one tile and KV head: rows from before this step come
from the sequence's tail page, the others from the step's tokens. More than 128 channels do not fit
into registers: they are worked on in slabs, which are rotated again in each pass over the tile.
"""

import torch
import triton
import triton.language as tl

from kvarn.format import reference
from kvarn.format.layout import TileLayout
from kvarn.kernels.batch import LayerCache
from kvarn.kernels.triton import quantise
from kvarn.kernels.triton.arguments import Pages, Rows, Sequences
from kvarn.kernels.triton.pack import offset_bytes, write_codes, write_halves, write_raw
from kvarn.kernels.triton.rotate import GROUPS, padded_channels, rotated, signs
from kvarn.kernels.triton.step import NULL, TILE, Step, load_segment

PASSES = tl.constexpr(reference.PASSES)

SLAB_UNITS = tl.constexpr(8)
"""Channels of each group in a slab: 16 · 8 channels by 128 tokens are 64 KiB of float32."""


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
            zero, except in raw tiles, which hold them.
    """
    layout = cache.layout
    _store[(step.segments, cache.packed.shape[1], 2)](
        Sequences.of(step, cache),
        Pages.of(cache.packed),
        Pages.of(cache.tail),
        Rows.of(keys),
        Rows.of(values),
        signs(layout, keys.dtype, keys.device),
        faults,
        LAYOUT=layout,
        num_warps=warps(layout),
    )


def warps(layout: TileLayout) -> int:
    """Warps of a program: 16 rows of a slab for each."""
    return min(8, padded_channels(layout) // 16)


@triton.constexpr_function
def slab_units(layout: TileLayout) -> int:
    """Channels of each group in a slab."""
    return min(SLAB_UNITS, padded_channels(layout) // GROUPS)


@triton.jit
def _store(
    sequences: Sequences,
    packed: Pages,
    tail: Pages,
    keys: Rows,
    values: Rows,
    matrix: tl.tensor,
    faults: tl.tensor | None,
    LAYOUT: tl.constexpr,
) -> None:
    sequence, tile, first, end, origin = load_segment(
        sequences.starts,
        sequences.lengths,
        sequences.segment_sequence,
        sequences.segment_tile,
        tl.program_id(0),
    )
    if (first < end) & (end == TILE):
        at = sequences.table + sequence.to(tl.int64) * sequences.table_stride + tile
        page = tl.load(at).to(tl.int64)
        if page != NULL:
            head = tl.program_id(1).to(tl.int64)
            place = packed.pointer + page * packed.page_stride + head * packed.head_stride
            row = tl.arange(0, TILE)
            page = tl.load(sequences.tail_page + sequence).to(tl.int64)
            old = tail.pointer + page * tail.page_stride + head * tail.head_stride
            old += row * (2 * LAYOUT.head_dim)
            token = (origin + row).to(tl.int64)
            if tl.program_id(2) == 0:
                new = keys.pointer + token * keys.token_stride + head * keys.head_stride
                rows = tl.where(row < first, old, new)
                _store_rows(place, rows, matrix, faults, LAYOUT, "key", LAYOUT.format.key_bits)
            else:
                new = values.pointer + token * values.token_stride + head * values.head_stride
                rows = tl.where(row < first, old + LAYOUT.head_dim, new)
                _store_rows(place, rows, matrix, faults, LAYOUT, "value", LAYOUT.format.value_bits)


@triton.jit
def _store_rows(
    tile: tl.tensor,
    rows: tl.tensor,
    matrix: tl.tensor,
    faults: tl.tensor | None,
    LAYOUT: tl.constexpr,
    OF: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    if LAYOUT.format.is_raw:
        write_raw(tile, rows, LAYOUT, OF)
    else:
        _quantise(tile, rows, matrix, faults, LAYOUT, OF, BITS)


@triton.jit
def _quantise(
    tile: tl.tensor,
    rows: tl.tensor,
    matrix: tl.tensor,
    faults: tl.tensor | None,
    LAYOUT: tl.constexpr,
    OF: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    SLABS: tl.constexpr = padded_channels(LAYOUT) // GROUPS // slab_units(LAYOUT)
    MIDDLE: tl.constexpr = quantise.MIDDLE[BITS]
    squares = tl.zeros([TILE], tl.float32)
    for slab in tl.static_range(SLABS):
        x, bad = _rotated_slab(rows, matrix, slab, LAYOUT)
        squares += quantise.squares_around_middle(x)
        if slab == 0 and faults is not None:
            _count(faults, bad)
    token = quantise.root_mean_square(squares, LAYOUT.head_dim)
    product = tl.zeros([TILE], tl.float32)
    square = tl.zeros([TILE], tl.float32)
    grids = ()
    for slab in tl.static_range(SLABS):
        if SLABS > 1:
            x, bad = _rotated_slab(rows, matrix, slab, LAYOUT)
        mean, channel = quantise.spanned(x, token, quantise.FIRST_STEP[BITS])
        products, squares = quantise.token_sums(x, mean, token, channel, MIDDLE)
        product += products
        square += squares
        grids = grids + ((mean, channel),)
    for fit in tl.static_range(PASSES):
        fitted_token = quantise.least_squares(product, square)
        product = tl.zeros([TILE], tl.float32)
        square = tl.zeros([TILE], tl.float32)
        fitted_grids = ()
        for slab in tl.static_range(SLABS):
            if SLABS > 1:
                x, bad = _rotated_slab(rows, matrix, slab, LAYOUT)
            mean, channel = grids[slab]
            mean, channel = quantise.fitted(x, mean, token, channel, fitted_token, MIDDLE)
            fitted_grids = fitted_grids + ((mean, channel),)
            if fit + 1 < PASSES:
                products, squares = quantise.token_sums(x, mean, fitted_token, channel, MIDDLE)
                product += products
                square += squares
            else:
                _write_slab(tile, x, mean, fitted_token, channel, slab, LAYOUT, OF, BITS)
        token = fitted_token
        grids = fitted_grids
    index = tl.arange(0, TILE)
    offset = offset_bytes(LAYOUT, OF + "_token_scale")
    write_halves(tile, quantise.stored(token), index, index < TILE, offset)


@triton.jit
def _rotated_slab(
    rows: tl.tensor, matrix: tl.tensor, slab: tl.constexpr, LAYOUT: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """A slab, and the number of elements of each row that are not finite."""
    UNITS: tl.constexpr = slab_units(LAYOUT)
    place = tl.arange(0, GROUPS * UNITS)
    group_row = place // UNITS * (padded_channels(LAYOUT) // GROUPS)
    return rotated(rows, matrix, group_row + slab * UNITS + place % UNITS, LAYOUT)


@triton.jit
def _count(faults: tl.tensor, bad: tl.tensor) -> None:
    number = tl.sum(bad, 0)
    if number > 0:
        tl.atomic_add(faults, number.to(tl.int64))


@triton.jit
def _write_slab(
    tile: tl.tensor,
    x: tl.tensor,
    mean: tl.tensor,
    token: tl.tensor,
    channel: tl.tensor,
    slab: tl.constexpr,
    LAYOUT: tl.constexpr,
    OF: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    """Codes, means and scales of a slab's channels."""
    UNITS: tl.constexpr = slab_units(LAYOUT)
    GROUP: tl.constexpr = LAYOUT.head_dim // 16
    scale = quantise.stored(channel)
    token = quantise.stored(token).to(tl.float32)
    codes, mean = quantise.final(x, mean, token, scale.to(tl.float32), quantise.MIDDLE[BITS])
    place = tl.arange(0, GROUPS * UNITS)
    unit = place % UNITS + slab * UNITS
    index = place // UNITS * GROUP + unit
    write_halves(tile, scale, index, unit < GROUP, offset_bytes(LAYOUT, OF + "_channel_scale"))
    write_halves(tile, mean, index, unit < GROUP, offset_bytes(LAYOUT, OF + "_mean"))
    write_codes(tile, codes, tl.arange(0, UNITS) + slab * UNITS, LAYOUT, OF, BITS)
