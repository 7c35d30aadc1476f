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


def padded_channels(layout: TileLayout) -> int:
    """C: places for channels in group order."""
    padded: int = WORD_BITS * triton.next_power_of_2(layout.head_dim // WORD_BITS)
    return padded


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


@triton.jit
def load_signs(signs: tl.tensor, C: tl.constexpr, D: tl.constexpr, K: tl.constexpr) -> tl.tensor:
    """The matrix of :func:`signs`, ``[C, K]`` with zeros from D to the power of two K."""
    row = tl.arange(0, C)
    column = tl.arange(0, K)
    return tl.load(signs + row[:, None] * D + column[None, :], mask=column[None, :] < D, other=0.0)


@triton.jit
def rotate(signs: tl.tensor, columns: tl.tensor, NORM: tl.constexpr) -> tl.tensor:
    """Vectors as columns ``[K, N]``, rotated: float32 ``[C, N]`` in group order."""
    return tl.dot(signs, columns, input_precision="ieee") * NORM
