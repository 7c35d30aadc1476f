"""Attention over a sequence's own tile: raw rows, in the model's channels.

The products have queries as columns, as those with packed tiles.
"""

import triton
import triton.language as tl

from kvarn.format.layout import TileLayout
from kvarn.kernels.triton.arguments import Pages, Rows, Sequences
from kvarn.kernels.triton.rotate import INTERPRETED
from kvarn.kernels.triton.scores import LOWEST, as_exponents, score_factor, weigh

RAW_TOKENS = tl.constexpr(32)
"""Tokens of raw rows that a product takes."""


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
def tail_of(tail: Pages, sequences: Sequences, sequence: tl.tensor, head: tl.tensor) -> tl.tensor:
    """Pointer to row 0 of a head in a sequence's tail page."""
    page = tl.load(sequences.tail_page + sequence * sequences.tail_stride).to(tl.int64)
    return tail.pointer + page * tail.page_stride + head.to(tl.int64) * tail.head_stride


@triton.jit
def row_0_of(rows: Rows, origin: tl.tensor, head: tl.tensor) -> tl.tensor:
    """Pointer to where row 0 of a segment's tile would be among a head's new tokens."""
    return rows.pointer + origin.to(tl.int64) * rows.token_stride + head * rows.head_stride


@triton.jit
def load_own(
    tail: tl.tensor,
    new: tl.tensor,
    new_stride: tl.tensor,
    row: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    D: tl.constexpr,
    PLACES: tl.constexpr,
) -> tl.tensor:
    """Rows of a sequence's own tile, ``[rows, PLACES]``, zeros where there are none.

    Rows before `first` are in the tail, 2·D apart. The others, as far as `end`, are this step's:
    `new` points to where row 0 would be among those.
    """
    channel = tl.arange(0, PLACES)
    at = tl.where(row < first, tail + row * (2 * D), new + row.to(tl.int64) * new_stride)
    mask = (row < end)[:, None] & (channel < D)[None, :]
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
    tail: tl.tensor,
    keys: tl.tensor,
    key_stride: tl.tensor,
    values: tl.tensor,
    value_stride: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    scale: tl.tensor,
    D: tl.constexpr,
    CAP: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Sums, peaks and totals of queries ``[K, N]`` over their segment's own tile.

    `sight` ``[N]`` is the last row that each of them sees; the pointers are as in
    :func:`load_own`.
    """
    PLACES: tl.constexpr = queries.shape[0]
    token = tl.arange(0, RAW_TOKENS)
    factor = score_factor(scale, CAP)
    peak = tl.full([queries.shape[1]], LOWEST, tl.float32)
    total = tl.zeros_like(peak)
    sums = tl.zeros(queries.shape, tl.float32)
    for begin in range(0, end, RAW_TOKENS):
        row = begin + token
        key_rows = load_own(tail, keys, key_stride, row, first, end, D, PLACES)
        value_rows = load_own(tail + D, values, value_stride, row, first, end, D, PLACES)
        visible = row[:, None] <= sight[None, :]
        sums, peak, total = _add(
            sums, peak, total, queries, key_rows, value_rows, visible, factor, CAP
        )
    return sums, peak, total
