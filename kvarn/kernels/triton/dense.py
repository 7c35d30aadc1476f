"""Rows of packed tiles as ordinary numbers, in any order of the channels."""

import triton
import triton.language as tl

from kvarn.kernels.triton.pack import offset_bytes
from kvarn.kernels.triton.packed import element, middle
from kvarn.kernels.triton.step import TILE


@triton.jit
def _fields(
    words: tl.tensor,
    stride: tl.constexpr,
    channel: tl.tensor,
    mask: tl.tensor,
    COUNT: tl.constexpr,
    BITS: tl.constexpr,
) -> tl.tensor:
    """Fields of channels in planes of `COUNT` words that lie `stride` apart."""
    word = tl.load(words + channel % COUNT * stride, mask=mask, other=0)
    return (word >> (channel // COUNT * BITS).to(tl.int16)) & ((1 << BITS) - 1)


@triton.jit
def _codes(
    words: tl.tensor,
    stride: tl.constexpr,
    channel: tl.tensor,
    mask: tl.tensor,
    D: tl.constexpr,
    BITS: tl.constexpr,
) -> tl.tensor:
    if BITS == 3:
        low = _fields(words, stride, channel, mask, D // 8, 2)
        return low | _fields(words + D // 8 * stride, stride, channel, mask, D // 16, 1) << 2
    return _fields(words, stride, channel, mask, D * BITS // 16, BITS)


@triton.jit
def load_rows(
    tile: tl.tensor,
    token: tl.tensor,
    channel: tl.tensor,
    exists: tl.tensor,
    OF: tl.constexpr,
    LAYOUT: tl.constexpr,
    COMPUTE: tl.constexpr,
) -> tl.tensor:
    """Keys or values of a tile, ``[tokens, channels]``, zeros where no channel exists.

    Args:
        tile: pointer to its bytes.
        token: which tokens.
        channel: which channels.
        exists: which of those there are.
        OF: ``key`` or ``value``.
        LAYOUT: of the tile.
        COMPUTE: type of the result.
    """
    if LAYOUT.format.is_raw:
        rows = (tile + offset_bytes(LAYOUT, OF + "s")).to(tl.pointer_type(tl.float32))
        at = rows + token[:, None] * LAYOUT.head_dim + channel[None, :]
        mask = exists[None, :] & (token >= 0)[:, None]
        numbers = tl.load(at, mask=mask, other=0.0).to(COMPUTE)
    else:
        BITS: tl.constexpr = LAYOUT.format.key_bits if OF == "key" else LAYOUT.format.value_bits
        numbers = _dequantised(tile, token, channel, exists, OF, LAYOUT, BITS, COMPUTE)
    return numbers


@triton.jit
def _dequantised(
    tile: tl.tensor,
    token: tl.tensor,
    channel: tl.tensor,
    exists: tl.tensor,
    OF: tl.constexpr,
    LAYOUT: tl.constexpr,
    BITS: tl.constexpr,
    COMPUTE: tl.constexpr,
) -> tl.tensor:
    D: tl.constexpr = LAYOUT.head_dim
    # Words of a token's keys lie side by side, words of a token's values a tile's width apart.
    stride: tl.constexpr = 1 if OF == "key" else TILE
    step: tl.constexpr = D * BITS // 16 if OF == "key" else 1
    mask = exists[None, :] & (token >= 0)[:, None]
    halves = tile.to(tl.pointer_type(tl.float16))
    words = (halves + element(LAYOUT, OF + "_codes")).to(tl.pointer_type(tl.int16))
    codes = _codes(words + token[:, None] * step, stride, channel[None, :], mask, D, BITS)
    # 1024 in float16 has room for the code in its low bits, which no conversion is as fast as.
    centred = ((codes | 0x6400).to(tl.float16, bitcast=True) - 1024) - middle(BITS)
    scales = halves + element(LAYOUT, OF + "_channel_scale") + channel
    means = halves + element(LAYOUT, OF + "_mean") + channel
    channel_scale = tl.load(scales, mask=exists, other=0.0).to(COMPUTE)
    mean = tl.load(means, mask=exists, other=0.0).to(COMPUTE)
    token_scale = tl.load(halves + element(LAYOUT, OF + "_token_scale") + token).to(COMPUTE)
    rows = centred.to(COMPUTE) * channel_scale[None, :] * token_scale[:, None]
    return rows + mean[None, :]
