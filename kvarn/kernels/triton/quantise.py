"""The quantiser of :mod:`kvarn.format.reference` for a tile in registers.

A program keeps one *slab* of a tile: rotated channels in group order by 128 tokens, ``[C, 128]``.
What belongs to channels is ``[C]``, what belongs to tokens ``[128]``. Divisions are products with
reciprocals; every other step is the reference's.
"""

import triton
import triton.language as tl

from kvarn.format import reference
from kvarn.kernels.triton.rotate import INTERPRETED
from kvarn.kernels.triton.step import TILE

MIDDLE = tl.constexpr({bits: reference.middle(bits) for bits in reference.RANGE})
"""What stands for the mean among codes of so many bits."""

FIRST_STEP = tl.constexpr({bits: part / MIDDLE[bits] for bits, part in reference.RANGE.items()})
"""Step of the first codes of so many bits, in parts of a channel's reach."""

SMALLEST = tl.constexpr(reference.SMALLEST)
LARGEST = tl.constexpr(reference.LARGEST)

ROUND = tl.constexpr(1.5 * 2.0**23)
"""A float32 so large that its sum with a small number has no fraction: adding it rounds to the
nearest even, and the integer lies in the low bits."""


@triton.jit
def reciprocal(x: tl.tensor) -> tl.tensor:
    """Of normal numbers, to one unit in the last place."""
    if INTERPRETED:
        return 1.0 / x
    return tl.inline_asm_elementwise(
        "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def within_codes(x: tl.tensor, scale: tl.tensor, MIDDLE: tl.constexpr) -> tl.tensor:
    """Where x · scale lies between the lowest code, 0, and the highest, 1."""
    PART: tl.constexpr = 0.5 / MIDDLE
    if INTERPRETED:
        return tl.minimum(tl.maximum(x * (scale * PART) + 0.5, 0.0), 1.0)
    x, scale = tl.broadcast(x, scale * PART)
    return tl.inline_asm_elementwise(
        "fma.rn.sat.f32 $0, $1, $2, 0f3F000000;",
        "=f,f,f",
        [x, scale],
        dtype=tl.float32,
        is_pure=True,
        pack=1,
    )


@triton.jit
def middle_of_range(x: tl.tensor) -> tl.tensor:
    """Of each channel."""
    return (tl.min(x, 1) + tl.max(x, 1)) * 0.5


@triton.jit
def squares_around_middle(x: tl.tensor) -> tl.tensor:
    """The slab's part of each token's squared deviation from the middle of the ranges."""
    offset = x - middle_of_range(x)[:, None]
    return tl.sum(offset * offset, 0)


@triton.jit
def root_mean_square(squares: tl.tensor, D: tl.constexpr) -> tl.tensor:
    """First scales of the tokens."""
    return tl.maximum(tl.sqrt(squares * (1.0 / D)), SMALLEST)


@triton.jit
def spanned(x: tl.tensor, token: tl.tensor, STEP: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """First means and scales of the channels.

    Args:
        x: the slab.
        token: scales of the tokens.
        STEP: of the codes, in parts of a channel's reach.
    """
    inverse = reciprocal(token)[None, :]
    average = tl.sum(x, 1) * (1.0 / TILE)
    middle = middle_of_range((x - average[:, None]) * inverse)
    mean = average + middle * (tl.sum(token[None, :], 1) * (1.0 / TILE))
    reach = tl.max(tl.abs((x - mean[:, None]) * inverse), 1)
    return mean, tl.maximum(reach * STEP, SMALLEST)


@triton.jit
def lifted_codes(
    offset: tl.tensor, token: tl.tensor, channel: tl.tensor, MIDDLE: tl.constexpr
) -> tl.tensor:
    """The nearest codes to offsets from the mean, as floats with :data:`ROUND` added."""
    level = offset * reciprocal(token)[None, :]
    return within_codes(level, reciprocal(channel)[:, None], MIDDLE) * (2 * MIDDLE) + ROUND


@triton.jit
def least_squares(product: tl.tensor, square: tl.tensor) -> tl.tensor:
    """The factor of one vector that brings it nearest to another."""
    return tl.maximum(product * reciprocal(tl.maximum(square, SMALLEST)), SMALLEST)


@triton.jit
def token_sums(
    x: tl.tensor, mean: tl.tensor, token: tl.tensor, channel: tl.tensor, MIDDLE: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """The slab's part of the products and squares that the tokens' scales are fitted by."""
    offset = x - mean[:, None]
    codes = lifted_codes(offset, token, channel, MIDDLE) - ROUND
    shape = codes * channel[:, None] - (MIDDLE * channel)[:, None]
    return tl.sum(offset * shape, 0), tl.sum(shape * shape, 0)


@triton.jit
def fitted(
    x: tl.tensor,
    mean: tl.tensor,
    token: tl.tensor,
    channel: tl.tensor,
    fitted_token: tl.tensor,
    MIDDLE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Means and scales of the channels that bring the codes nearest, once the tokens are fitted."""
    offset = x - mean[:, None]
    codes = lifted_codes(offset, token, channel, MIDDLE) - ROUND
    shape = codes * fitted_token[None, :] - (MIDDLE * fitted_token)[None, :]
    scale = least_squares(tl.sum(offset * shape, 1), tl.sum(shape * shape, 1))
    return (tl.sum(x, 1) - scale * tl.sum(shape, 1)) * (1.0 / TILE), scale


@triton.jit
def stored(scale: tl.tensor) -> tl.tensor:
    """A scale as a tile has it, float16."""
    return tl.minimum(tl.maximum(scale, SMALLEST), LARGEST).to(tl.float16)


@triton.jit
def bounded(mean: tl.tensor) -> tl.tensor:
    """A mean as a tile has it, float16."""
    return tl.minimum(tl.maximum(mean, -LARGEST), LARGEST).to(tl.float16)


@triton.jit
def final(
    x: tl.tensor, mean: tl.tensor, token: tl.tensor, channel: tl.tensor, MIDDLE: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Codes for scales as stored, and the means for those codes.

    Returns:
        int32 ``[C, 128]`` from 0, float32 ``[C]``.
    """
    lifted = lifted_codes(x - mean[:, None], token, channel, MIDDLE)
    shape = (lifted - ROUND) * token[None, :] - (MIDDLE * token)[None, :]
    mean = (tl.sum(x, 1) - channel * tl.sum(shape, 1)) * (1.0 / TILE)
    return lifted.to(tl.int32, bitcast=True) & 15, mean
