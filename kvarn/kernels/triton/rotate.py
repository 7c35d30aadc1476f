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

GROUPS = tl.constexpr(WORD_BITS)
"""Groups of channels: as many as a word has bits."""

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Whether kernels run in Triton's interpreter, whose products take bfloat16 for integers."""


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
def summands(layout: TileLayout, element_bits: int) -> int:
    """Channels in one product with the rotation: float32 has no tensor cores and is taken in bits.

    Divides the head dimension.
    """
    return 16 if element_bits == 32 else min(layout.rotation_block, 128)


@triton.jit
def rotated(
    rows: tl.tensor, matrix: tl.tensor, matrix_row: tl.tensor, LAYOUT: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Some channels of rotated rows; elements that are not finite count as zero.

    Args:
        rows: ``[N]`` pointers to the first channel of each row.
        matrix: :func:`signs`.
        matrix_row: ``[C]`` which of its rows.
        LAYOUT: of the tile.

    Returns:
        float32 ``[C, N]``, and int32 ``[N]`` with the number of each row's elements that are not
        finite.
    """
    D: tl.constexpr = LAYOUT.head_dim
    ELEMENT: tl.constexpr = matrix.dtype.element_ty
    SUMMANDS: tl.constexpr = summands(LAYOUT, ELEMENT.primitive_bitwidth)
    PRODUCT: tl.constexpr = tl.float32 if INTERPRETED else ELEMENT
    x = tl.zeros([matrix_row.shape[0], rows.shape[0]], tl.float32)
    faults = tl.zeros([rows.shape[0]], tl.int32)
    for start in range(0, D, SUMMANDS):
        channel = start + tl.arange(0, SUMMANDS)
        part = tl.load(rows[None, :] + channel[:, None])
        finite = tl.abs(part.to(tl.float32)) < float("inf")
        faults += tl.sum(1 - finite.to(tl.int32), 0)
        part = tl.where(finite, part, 0.0).to(PRODUCT)
        turn = tl.load(matrix + matrix_row[:, None] * D + channel[None, :]).to(PRODUCT)
        x = tl.dot(turn, part, x, input_precision="ieee")
    return x * norm(LAYOUT), faults
