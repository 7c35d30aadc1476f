"""The rotation of single vectors: queries before packed keys, results after packed values.

A Hadamard matrix is applied by sums and differences, in float32 and without a matrix.
"""

import torch
import triton
import triton.language as tl

from kvarn.format.layout import TileLayout
from kvarn.kernels.triton.own import channel_places
from kvarn.kernels.triton.rotate import norm, padded_channels

ROWS = tl.constexpr(8)
"""Vectors that a program rotates."""


@triton.constexpr_function
def _stages(layout: TileLayout) -> int:
    return layout.rotation_block.bit_length() - 1


@triton.constexpr_function
def _norm(layout: TileLayout) -> float:
    return norm(layout)


@triton.jit
def group_place(channel: tl.tensor, LAYOUT: tl.constexpr) -> tl.tensor:
    """Place in group order of a channel."""
    UNITS: tl.constexpr = LAYOUT.head_dim // 16
    FILLED: tl.constexpr = padded_channels(LAYOUT) // 16
    if UNITS == FILLED:
        return channel
    return channel // UNITS * FILLED + channel % UNITS


@triton.jit
def group_channel(LAYOUT: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The channel at each place in group order ``[C]``, and whether there is one."""
    UNITS: tl.constexpr = LAYOUT.head_dim // 16
    FILLED: tl.constexpr = padded_channels(LAYOUT) // 16
    place = tl.arange(0, padded_channels(LAYOUT))
    if UNITS == FILLED:
        return place, place >= 0
    unit = place % FILLED
    return place // FILLED * UNITS + unit, unit < UNITS


@triton.jit
def turned(rows: tl.tensor, LAYOUT: tl.constexpr) -> tl.tensor:
    """Rows ``[R, K]`` rotated, with channels in their own order and zeros after them."""
    R: tl.constexpr = rows.shape[0]
    K: tl.constexpr = rows.shape[1]
    for stage in tl.static_range(_stages(LAYOUT)):
        pairs = rows.reshape(R, K >> stage + 1, 2, 1 << stage)
        left, right = tl.split(pairs.trans(0, 1, 3, 2))
        pairs = tl.join(left + right, left - right).trans(0, 1, 3, 2)
        rows = pairs.reshape(R, K)
    return rows * _norm(LAYOUT)


@triton.jit
def _rotate_queries(
    query: tl.tensor,
    token_stride: tl.tensor,
    head_stride: tl.tensor,
    rotated: tl.tensor,
    HEADS: tl.constexpr,
    LAYOUT: tl.constexpr,
) -> None:
    """Queries of :data:`ROWS` heads of one token; the grid is ``(tokens, ⌈Hq/ROWS⌉)``."""
    D: tl.constexpr = LAYOUT.head_dim
    C: tl.constexpr = padded_channels(LAYOUT)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, channel_places(LAYOUT))
    mask = (head < HEADS)[:, None] & (channel < D)[None, :]
    rows = query + token * token_stride + head[:, None] * head_stride
    rows = tl.load(rows + channel[None, :], mask=mask, other=0.0).to(tl.float32)
    out = rotated + (token * HEADS + head[:, None]) * C + group_place(channel, LAYOUT)[None, :]
    tl.store(out, turned(rows, LAYOUT), mask=mask)


def rotate_queries(layout: TileLayout, query: torch.Tensor, rotated: torch.Tensor) -> None:
    """Rotate queries into group order.

    Args:
        layout: format and head dimension.
        query: ``[tokens, Hq, D]``, channels contiguous.
        rotated: ``[tokens, Hq, C]``; places of no channel are left alone.
    """
    tokens, heads, _ = query.shape
    _rotate_queries[(tokens, triton.cdiv(heads, ROWS.value))](
        query, *query.stride()[:2], rotated, HEADS=heads, LAYOUT=layout, num_warps=1
    )
