"""Codes into words, and a tile's arrays into their places."""

import triton
import triton.language as tl

from kvarn.format.layout import TileLayout
from kvarn.kernels.triton.rotate import GROUPS
from kvarn.kernels.triton.step import TILE


@triton.constexpr_function
def offset_bytes(layout: TileLayout, name: str) -> int:
    """Distance of an array from the first byte of its tile."""
    return layout.fields[name].offset_bytes


@triton.jit
def words(fields: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """Put fields into words.

    Args:
        fields: int32 ``[16·U, 128]`` of b bits, channels in group order.
        BITS: b, a divisor of 16.

    Returns:
        int16 ``[b·U, 128]``; those of each plane's first group come first.
    """
    PLANES: tl.constexpr = GROUPS // BITS
    planes = tl.reshape(fields, [PLANES, fields.shape[0] // PLANES, TILE])
    shift = (tl.arange(0, PLANES) * BITS)[:, None, None]
    return tl.sum(planes << shift, 0).to(tl.int16)


@triton.jit
def write_words(
    pointer: tl.tensor,
    fields: tl.tensor,
    unit: tl.tensor,
    BITS: tl.constexpr,
    UNITS: tl.constexpr,
    WORD_STRIDE: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
) -> None:
    """Put the fields of a slab into words, and those where they belong.

    Args:
        pointer: int16, to where the words of these fields begin.
        fields: int32 ``[16·U, 128]``.
        unit: ``[U]`` index of the slab's channels in their group.
        BITS: width of a field.
        UNITS: channels of a group, D/16.
        WORD_STRIDE: words from one word of a token to the next.
        TOKEN_STRIDE: words from one token to the next.
    """
    word = (tl.arange(0, BITS) * UNITS)[:, None] + unit[None, :]
    exists = (tl.zeros_like(word) + unit[None, :]) < UNITS
    word = tl.reshape(word, [fields.shape[0] * BITS // GROUPS])
    exists = tl.reshape(exists, [fields.shape[0] * BITS // GROUPS])
    token = tl.arange(0, TILE)
    places = pointer + word[:, None] * WORD_STRIDE + token[None, :] * TOKEN_STRIDE
    tl.store(places, words(fields, BITS), mask=exists[:, None])


@triton.jit
def write_codes(
    tile: tl.tensor,
    codes: tl.tensor,
    unit: tl.tensor,
    LAYOUT: tl.constexpr,
    OF: tl.constexpr,
    BITS: tl.constexpr,
) -> None:
    """Write the codes of a slab into a tile: keys token after token, values word after word."""
    D: tl.constexpr = LAYOUT.head_dim
    UNITS: tl.constexpr = D // 16
    WORD_STRIDE: tl.constexpr = 1 if OF == "key" else TILE
    TOKEN_STRIDE: tl.constexpr = UNITS * BITS if OF == "key" else 1
    pointer = (tile + offset_bytes(LAYOUT, OF + "_codes")).to(tl.pointer_type(tl.int16))
    if BITS == 3:
        high = pointer + 2 * UNITS * WORD_STRIDE
        write_words(pointer, codes & 3, unit, 2, UNITS, WORD_STRIDE, TOKEN_STRIDE)
        write_words(high, codes >> 2, unit, 1, UNITS, WORD_STRIDE, TOKEN_STRIDE)
    else:
        write_words(pointer, codes, unit, BITS, UNITS, WORD_STRIDE, TOKEN_STRIDE)


@triton.jit
def write_halves(
    tile: tl.tensor,
    numbers: tl.tensor,
    index: tl.tensor,
    exists: tl.tensor,
    OFFSET_BYTES: tl.constexpr,
) -> None:
    """Write float16 numbers into an array of a tile."""
    pointer = (tile + OFFSET_BYTES).to(tl.pointer_type(tl.float16))
    tl.store(pointer + index, numbers, mask=exists)
