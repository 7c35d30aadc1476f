"""The rotation on tensor cores, and the order of channels that the kernels compute in.

Between loading and storing, the kernels keep channels in *group order*: channel g·D/16 + u, with
g < 16 and u < D/16, lies at g·U + u, where U is D/16 filled up to a power of two. All 16/b fields
of a word of b-bit codes then have one u, and a head dimension that is not a power of two is an
array of one that is, with zeros at u ≥ D/16.

The rotation's rows are put in that order, so that rotating and reordering are one product. It is
a matrix of ±1 and 0, exact in every type, times one number; products of it with rows of the
model's type are exact, and their sums are float32.
"""

from functools import cache

import torch
import triton
import triton.language as tl

from kvarn.format.hadamard import rotation
from kvarn.format.layout import WORD_BITS, TileLayout
from kvarn.kernels.triton.step import TILE

GROUPS = tl.constexpr(WORD_BITS)
"""Groups of channels: as many as a word has bits."""

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, whose products take bfloat16 for integers."""

QUARTER = tl.constexpr(TILE.value // 4)
"""Rows of one product. Fewer than 64 keep each warp on its own channels with all rows of the tile,
which makes a sum over tokens nearly free; so the tile is put together from four."""


@triton.constexpr_function
def padded_channels(layout: TileLayout) -> int:
    """C: places for channels in group order."""
    padded: int = WORD_BITS * triton.next_power_of_2(layout.head_dim // WORD_BITS)
    return padded


@triton.constexpr_function
def norm(layout: TileLayout) -> float:
    """The factor of the matrix of :func:`signs` that makes it the rotation."""
    return 1.0 if layout.format.is_raw else float(layout.rotation_block**-0.5)


@cache
def signs(layout: TileLayout, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The rotation as ±1, its rows in group order; those of no channel are zero.

    Returns:
        ``[C, D]``, shared by all callers.
    """
    groups = rotation(layout, device).sign().view(WORD_BITS, -1, layout.head_dim)
    filled = groups.new_zeros(WORD_BITS, padded_channels(layout) // WORD_BITS, layout.head_dim)
    filled[:, : groups.shape[1]] = groups
    return filled.flatten(0, 1).to(dtype)


@triton.constexpr_function
def summands(layout: TileLayout, element: tl.dtype, clean: bool) -> int:
    """Channels in one product with the rotation, a divisor of the head dimension.

    Few of float32, which has no tensor cores, and where elements are looked at: in a product's
    operand each warp has all of them.
    """
    return 16 if clean or element == tl.float32 else min(layout.rotation_block, 128)


@triton.jit
def row_pointers(
    row: tl.tensor,
    first: tl.tensor,
    old: tl.tensor,
    new: tl.tensor,
    new_stride: tl.tensor,
    D: tl.constexpr,
) -> tl.tensor:
    """Pointers to rows of a tile.

    Args:
        row: their indices.
        first: the row from which on they are new.
        old: pointer to row 0 in a tail page.
        new: pointer to where row 0 would be among the new tokens.
        new_stride: distance of the next token.
        D: head dimension.
    """
    return tl.where(row < first, old + row * (2 * D), new + row.to(tl.int64) * new_stride)


@triton.jit
def is_finite(part: tl.tensor) -> tl.tensor:
    """Which elements are numbers."""
    return tl.abs(part.to(tl.float32)) < float("inf")


@triton.jit
def not_finite(part: tl.tensor) -> tl.tensor:
    """How many elements of each row are not."""
    return tl.sum(1 - is_finite(part).to(tl.int32), 1)


@triton.jit
def _add_product(
    x: tl.tensor,
    rows: tl.tensor,
    turn: tl.tensor,
    channel: tl.tensor,
    CLEAN: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Add ``rows[:, channel] @ turn``; with CLEAN, count and leave out what is not finite."""
    part = tl.load(rows[:, None] + channel[None, :])
    faults = tl.zeros([rows.shape[0]], tl.int32)
    if CLEAN:
        faults = not_finite(part)
        part = tl.where(is_finite(part), part, 0.0)
    return tl.dot(part.to(turn.dtype), turn, x, input_precision="ieee"), faults


@triton.jit
def rotated(
    source: tl.tuple,
    matrix: tl.tensor,
    matrix_row: tl.tensor,
    LAYOUT: tl.constexpr,
    CLEAN: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Some channels of a tile's rows, rotated but for the factor :func:`norm`.

    Args:
        source: arguments of :func:`row_pointers` between the first and the last.
        matrix: :func:`signs`.
        matrix_row: ``[C]`` which of its rows.
        LAYOUT: of the tile.
        CLEAN: count elements that are not finite, and take them for zero.

    Returns:
        float32 ``[C, 128]``, and how many elements of the tile are not finite, in parts.
    """
    D: tl.constexpr = LAYOUT.head_dim
    ELEMENT: tl.constexpr = matrix.dtype.element_ty
    SUMMANDS: tl.constexpr = summands(LAYOUT, ELEMENT, CLEAN)
    row = tl.arange(0, QUARTER)
    rows0 = row_pointers(row, *source, D)
    rows1 = row_pointers(row + QUARTER, *source, D)
    rows2 = row_pointers(row + 2 * QUARTER, *source, D)
    rows3 = row_pointers(row + 3 * QUARTER, *source, D)
    x0 = tl.zeros([QUARTER, matrix_row.shape[0]], tl.float32)
    x1, x2, x3 = x0, x0, x0
    faults = tl.zeros([QUARTER], tl.int32)
    for start in range(0, D, SUMMANDS):
        channel = start + tl.arange(0, SUMMANDS)
        turn = tl.load(matrix + matrix_row[None, :] * D + channel[:, None])
        turn = turn.to(tl.float32 if INTERPRETED else ELEMENT)
        x0, faults0 = _add_product(x0, rows0, turn, channel, CLEAN)
        x1, faults1 = _add_product(x1, rows1, turn, channel, CLEAN)
        x2, faults2 = _add_product(x2, rows2, turn, channel, CLEAN)
        x3, faults3 = _add_product(x3, rows3, turn, channel, CLEAN)
        faults += faults0 + faults1 + faults2 + faults3
    x = tl.join(tl.join(x0, x1), tl.join(x2, x3)).permute(1, 3, 2, 0)
    return tl.reshape(x, [matrix_row.shape[0], TILE]), faults
