"""The keys or the values of one tile, quantised or copied.

A slab of a tile, 128 channels or fewer, fits into registers. A tile of one slab is rotated once,
one of several slabs is rotated again whenever the tokens' scales are known anew.
"""

import triton
import triton.language as tl

from kvarn.format import reference
from kvarn.format.layout import TileLayout
from kvarn.kernels.triton import quantise
from kvarn.kernels.triton.pack import offset_bytes, write_codes, write_halves
from kvarn.kernels.triton.rotate import (
    GROUPS,
    norm,
    not_finite,
    padded_channels,
    rotated,
    row_pointers,
)
from kvarn.kernels.triton.step import TILE

PASSES = tl.constexpr(reference.PASSES)

SLAB_CHANNELS = tl.constexpr(128)
"""Channels of a slab, at most."""


@triton.constexpr_function
def slab_channels(layout: TileLayout) -> int:
    """Channels of a slab."""
    return min(SLAB_CHANNELS.value, padded_channels(layout))


@triton.constexpr_function
def slab_count(layout: TileLayout) -> int:
    """Slabs of a tile."""
    return padded_channels(layout) // slab_channels(layout)


@triton.jit
def quantise_tile(
    tile: tl.tensor,
    source: tl.tuple,
    matrix: tl.tensor,
    faults: tl.tensor | None,
    LAYOUT: tl.constexpr,
    OF: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    """Quantise rows into a tile.

    Args:
        tile: pointer to its first byte.
        source: where its rows are, see :func:`kvarn.kernels.triton.rotate.row_pointers`.
        matrix: :func:`kvarn.kernels.triton.rotate.signs`.
        faults: the number of elements that are not finite is added.
        LAYOUT: of the tile.
        OF: "key" or "value".
        BITS: width of a code.
    """
    SLABS: tl.constexpr = slab_count(LAYOUT)
    MIDDLE: tl.constexpr = quantise.MIDDLE[BITS]
    x = _slab(source, matrix, faults, 0, LAYOUT)
    squares = quantise.squares_around_middle(x)
    for slab in range(1, SLABS):
        squares += quantise.squares_around_middle(_slab(source, matrix, None, slab, LAYOUT))
    token = quantise.root_mean_square(squares, LAYOUT.head_dim)

    means, channels = _no_vectors(LAYOUT), _no_vectors(LAYOUT)
    product, square = tl.zeros_like(squares), tl.zeros_like(squares)
    for slab in range(SLABS):
        if SLABS > 1:
            x = _slab(source, matrix, None, slab, LAYOUT)
        mean, channel = quantise.spanned(x, token, quantise.FIRST_STEP[BITS])
        means, channels = _set(means, slab, mean), _set(channels, slab, channel)
        products, squares = quantise.token_sums(x, mean, token, channel, MIDDLE)
        product, square = product + products, square + squares

    for fit in tl.static_range(PASSES):
        fitted_token = quantise.least_squares(product, square)
        product, square = tl.zeros_like(squares), tl.zeros_like(squares)
        for slab in range(SLABS):
            if SLABS > 1:
                x = _slab(source, matrix, None, slab, LAYOUT)
            mean, channel = _get(means, slab), _get(channels, slab)
            mean, channel = quantise.fitted(x, mean, token, channel, fitted_token, MIDDLE)
            means, channels = _set(means, slab, mean), _set(channels, slab, channel)
            if fit + 1 < PASSES:
                products, squares = quantise.token_sums(x, mean, fitted_token, channel, MIDDLE)
                product, square = product + products, square + squares
            else:
                _write_slab(tile, x, mean, fitted_token, channel, slab, LAYOUT, OF, BITS)
        token = fitted_token
    index = tl.arange(0, TILE)
    scale = quantise.stored(token * norm(LAYOUT))
    write_halves(tile, scale, index, index < TILE, offset_bytes(LAYOUT, OF + "_token_scale"))


@triton.jit
def copy_tile(
    tile: tl.tensor,
    source: tl.tuple,
    faults: tl.tensor | None,
    LAYOUT: tl.constexpr,
    OF: tl.constexpr,
) -> None:
    """Fill a raw tile. Arguments are those of :func:`quantise_tile`."""
    D: tl.constexpr = LAYOUT.head_dim
    pointer = (tile + offset_bytes(LAYOUT, OF + "s")).to(tl.pointer_type(tl.float32))
    token = tl.arange(0, TILE)
    rows = row_pointers(token, *source, D)[:, None]
    bad = tl.zeros_like(token)
    for start in range(0, D, LAYOUT.rotation_block):
        channel = start + tl.arange(0, LAYOUT.rotation_block)[None, :]
        part = tl.load(rows + channel).to(tl.float32)
        bad += not_finite(part)
        tl.store(pointer + token[:, None] * D + channel, part)
    _count(faults, bad)


@triton.jit
def _count(faults: tl.tensor | None, bad: tl.tensor) -> None:
    if faults is not None:
        number = tl.sum(bad, 0)
        if number > 0:
            tl.atomic_add(faults, number.to(tl.int64))


@triton.jit
def _slab(
    source: tl.tuple,
    matrix: tl.tensor,
    faults: tl.tensor | None,
    slab: tl.tensor,
    LAYOUT: tl.constexpr,
) -> tl.tensor:
    """Rotated channels ``[C, 128]``; elements that are not finite count as zero."""
    UNITS: tl.constexpr = slab_channels(LAYOUT) // GROUPS
    place = tl.arange(0, slab_channels(LAYOUT))
    matrix_row = place // UNITS * (padded_channels(LAYOUT) // GROUPS) + place % UNITS
    matrix_row += slab * UNITS
    x, _ = rotated(source, matrix, matrix_row, LAYOUT, False)
    # One element that is not finite makes all of its row so, and any sum over rows.
    if (tl.sum(tl.abs(tl.sum(x, 1)), 0) < float("inf")) == 0:
        x, bad = rotated(source, matrix, matrix_row, LAYOUT, True)
        _count(faults, bad)
    return x


@triton.jit
def _no_vectors(LAYOUT: tl.constexpr) -> tl.tensor:
    """Room for a vector of each slab, ``[slabs, C]``, or of the only one, ``[C]``."""
    SLABS: tl.constexpr = slab_count(LAYOUT)
    C: tl.constexpr = slab_channels(LAYOUT)
    return tl.zeros([C] if SLABS == 1 else [SLABS, C], tl.float32)


@triton.jit
def _set(vectors: tl.tensor, slab: tl.tensor, vector: tl.tensor) -> tl.tensor:
    if len(vectors.shape) > 1:
        chosen = (tl.arange(0, vectors.shape[0]) == slab)[:, None]
        vector = tl.where(chosen, vector[None, :], vectors)
    return vector


@triton.jit
def _get(vectors: tl.tensor, slab: tl.tensor) -> tl.tensor:
    if len(vectors.shape) > 1:
        chosen = (tl.arange(0, vectors.shape[0]) == slab)[:, None]
        vectors = tl.sum(tl.where(chosen, vectors, 0.0), 0)
    return vectors


@triton.jit
def _write_slab(
    tile: tl.tensor,
    x: tl.tensor,
    mean: tl.tensor,
    token: tl.tensor,
    channel: tl.tensor,
    slab: tl.tensor,
    LAYOUT: tl.constexpr,
    OF: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    """Codes, means and scales of a slab's channels."""
    UNITS: tl.constexpr = slab_channels(LAYOUT) // GROUPS
    GROUP: tl.constexpr = LAYOUT.head_dim // 16
    NORM: tl.constexpr = norm(LAYOUT)
    scale = quantise.stored(channel)
    token = quantise.stored(token * NORM).to(tl.float32) * (1 / NORM)
    codes, mean = quantise.final(x, mean, token, scale.to(tl.float32), quantise.MIDDLE[BITS])
    mean = quantise.bounded(mean * NORM)
    place = tl.arange(0, slab_channels(LAYOUT))
    unit = place % UNITS + slab * UNITS
    index = place // UNITS * GROUP + unit
    write_halves(tile, scale, index, unit < GROUP, offset_bytes(LAYOUT, OF + "_channel_scale"))
    write_halves(tile, mean, index, unit < GROUP, offset_bytes(LAYOUT, OF + "_mean"))
    write_codes(tile, codes, tl.arange(0, UNITS) + slab * UNITS, LAYOUT, OF, BITS)
