"""Attention over a sequence's own tile: raw rows, in the model's channels.

The products have queries as columns, as those with packed tiles.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from kvarn.format.layout import TileLayout
from kvarn.kernels.triton.arguments import Pages, Rows, Sequences
from kvarn.kernels.triton.queries import Segment
from kvarn.kernels.triton.rotate import INTERPRETED
from kvarn.kernels.triton.scores import LOWEST, as_exponents, score_factor, weigh

RAW_TOKENS = tl.constexpr(32)
"""Tokens of raw rows that a product takes."""


class Own(NamedTuple):
    """Where the rows of a segment's own tile are, for one KV head.

    Attributes:
        tail_at: row 0 in the sequence's tail page: its key, and then its value.
        keys_at: where the key of row 0 would be among the new tokens.
        key_stride: from a new key to the next.
        values_at: where the value of row 0 would be among the new tokens.
        value_stride: from a new value to the next.
        first: the first row that is new; those before it are in the tail.
        end: the row after the last one.
    """

    tail_at: tl.tensor
    keys_at: tl.tensor
    key_stride: tl.tensor
    values_at: tl.tensor
    value_stride: tl.tensor
    first: tl.tensor
    end: tl.tensor


@triton.constexpr_function
def channel_places(layout: TileLayout) -> int:
    """Places for a head's channels in their own order: the head dimension filled up."""
    return triton.next_power_of_2(layout.head_dim)


@triton.jit
def operand(numbers: tl.tensor) -> tl.tensor:
    """The model's numbers for a product. Triton's interpreter takes bfloat16 for integers."""
    if INTERPRETED:
        return numbers.to(tl.float32)
    return numbers


@triton.jit
def own_of(
    tail: Pages,
    keys: Rows,
    values: Rows,
    sequences: Sequences,
    tail_stride: tl.tensor,
    segment: Segment,
    head: tl.tensor,
) -> Own:
    """The own tile of a segment and KV head."""
    return Own(
        _tail_of(tail, sequences, tail_stride, segment.sequence, head),
        _row_0_of(keys, segment.origin, head),
        keys.token_stride,
        _row_0_of(values, segment.origin, head),
        values.token_stride,
        segment.first,
        segment.end,
    )


@triton.jit
def _tail_of(
    tail: Pages,
    sequences: Sequences,
    tail_stride: tl.tensor,
    sequence: tl.tensor,
    head: tl.tensor,
) -> tl.tensor:
    """Pointer to row 0 of a head in a sequence's tail page."""
    page = tl.load(sequences.tail_page + sequence * tail_stride).to(tl.int64)
    return tail.pointer + page * tail.page_stride + head.to(tl.int64) * tail.head_stride


@triton.jit
def _row_0_of(rows: Rows, origin: tl.tensor, head: tl.tensor) -> tl.tensor:
    """Pointer to where row 0 of a segment's tile would be among a head's new tokens."""
    return rows.pointer + origin.to(tl.int64) * rows.token_stride + head * rows.head_stride


@triton.jit
def own_keys(own: Own, row: tl.tensor, D: tl.constexpr, PLACES: tl.constexpr) -> tl.tensor:
    """Keys of rows of an own tile, ``[rows, PLACES]``, zeros where there are none."""
    old = own.tail_at + row * (2 * D)
    new = own.keys_at + row.to(tl.int64) * own.key_stride
    return _load(own, row, old, new, D, PLACES)


@triton.jit
def own_values(own: Own, row: tl.tensor, D: tl.constexpr, PLACES: tl.constexpr) -> tl.tensor:
    """Values of rows of an own tile, likewise."""
    old = own.tail_at + D + row * (2 * D)
    new = own.values_at + row.to(tl.int64) * own.value_stride
    return _load(own, row, old, new, D, PLACES)


@triton.jit
def _load(
    own: Own,
    row: tl.tensor,
    old: tl.tensor,
    new: tl.tensor,
    D: tl.constexpr,
    PLACES: tl.constexpr,
) -> tl.tensor:
    """Rows of an own tile that are `old`, in the tail, or `new`."""
    channel = tl.arange(0, PLACES)
    at = tl.where(row < own.first, old, new)
    mask = (row < own.end)[:, None] & (channel < D)[None, :]
    return operand(tl.load(at[:, None] + channel[None, :], mask=mask, other=0.0))


@triton.jit
def _add(
    sums: tl.tensor,
    peak: tl.tensor,
    total: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    visible: tl.tensor,
    factor: tl.tensor,
    CAP: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Take in raw rows.

    Args:
        sums: ``[K, N]``, K the places for channels.
        peak: ``[N]``.
        total: ``[N]``.
        queries: ``[K, N]``.
        keys: ``[RAW_TOKENS, K]``, zeros where there is no row.
        values: likewise.
        visible: ``[RAW_TOKENS, N]`` which query sees which row.
        factor: of the products.
        CAP: of the scores.
    """
    products = tl.dot(keys, queries, input_precision="ieee") * factor
    scores = tl.where(visible, as_exponents(products, CAP), -float("inf"))
    weights, fade, peak, total = weigh(scores, peak, total, 0)
    weights = weights.to(values.dtype)
    sums = tl.dot(tl.trans(values), weights, sums * fade[None, :], input_precision="ieee")
    return sums, peak, total


@triton.jit
def attend_own(
    queries: tl.tensor,
    sight: tl.tensor,
    own: Own,
    scale: tl.tensor,
    D: tl.constexpr,
    CAP: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Sums, peaks and totals of queries ``[K, N]`` over their segment's own tile.

    `sight` ``[N]`` is the last row that each of them sees.
    """
    PLACES: tl.constexpr = queries.shape[0]
    token = tl.arange(0, RAW_TOKENS)
    factor = score_factor(scale, CAP)
    peak = tl.full([queries.shape[1]], LOWEST, tl.float32)
    total = tl.zeros_like(peak)
    sums = tl.zeros(queries.shape, tl.float32)
    for begin in range(0, own.end, RAW_TOKENS):
        row = begin + token
        keys = own_keys(own, row, D, PLACES)
        values = own_values(own, row, D, PLACES)
        visible = row[:, None] <= sight[None, :]
        sums, peak, total = _add(sums, peak, total, queries, keys, values, visible, factor, CAP)
    return sums, peak, total
