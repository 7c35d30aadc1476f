"""Attention of few queries over much history, cut into parts that run side by side.

A program takes N query rows of one segment and KV head. Part 0 is the segment's own tile, raw, and
the parts after it are runs of the packed tiles before it, in the format's rotation.
:mod:`kvarn.kernels.triton.combine` joins them.
"""

import triton
import triton.language as tl

from kvarn.kernels.triton.arguments import Pages, Partial, Rows, Sequences
from kvarn.kernels.triton.own import attend_own, channel_places, operand
from kvarn.kernels.triton.packed import attend_packed
from kvarn.kernels.triton.planes import plane_count, plane_width, plane_words
from kvarn.kernels.triton.rotate import padded_channels
from kvarn.kernels.triton.step import load_segment


@triton.jit
def parts_of(tile: tl.tensor, parts: tl.tensor, least_tiles: tl.tensor) -> tl.tensor:
    """Parts that a history of `tile` tiles is cut into."""
    return tl.minimum(parts, tl.cdiv(tile, least_tiles))


@triton.jit
def _load_queries(
    at: tl.tensor, channel: tl.tensor, asked: tl.tensor, LAYOUT: tl.constexpr
) -> tl.tensor:
    """Queries as columns ``[K, N]`` in the model's channels."""
    mask = (channel < LAYOUT.head_dim)[:, None] & asked[None, :]
    return operand(tl.load(at[None, :] + channel[:, None], mask=mask, other=0.0))


@triton.jit
def _store_sums(
    at: tl.tensor,
    place: tl.tensor,
    exists: tl.tensor,
    sums: tl.tensor,
    total: tl.tensor,
    asked: tl.tensor,
) -> None:
    """Store columns ``[·, N]``, relative to their totals, at places of the rows `at`."""
    mask = exists[:, None] & asked[None, :]
    tl.store(at[None, :] + place[:, None], sums * (1 / total)[None, :], mask=mask)


@triton.jit(
    do_not_specialize=["parts", "least_tiles", "first_segment", "first_token", "tokens", "few"]
)
def attend(
    query: Rows,
    rotated: tl.tensor,
    keys: Rows,
    values: Rows,
    tail: Pages,
    packed: Pages,
    sequences: Sequences,
    partial: Partial,
    scale: tl.tensor,
    parts: tl.tensor,
    least_tiles: tl.tensor,
    first_segment: tl.tensor,
    first_token: tl.tensor,
    tokens: tl.tensor,
    few: tl.tensor,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    N: tl.constexpr,
    LAYOUT: tl.constexpr,
    CAP: tl.constexpr,
    ASM: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Part p of row block b of a segment and head; the grid is ``(1 + parts, blocks·H, segments)``.

    A launch attends `tokens` tokens of each segment from `first_token` on. Segments of more than
    `few` are left to :mod:`kvarn.kernels.triton.prefill`. `rotated` are the queries
    ``[tokens, Hq, C]``, rotated and in group order.
    """
    C: tl.constexpr = padded_channels(LAYOUT)
    part = tl.program_id(0)
    head = tl.program_id(1) % HEADS
    block = tl.program_id(1) // HEADS
    local = tl.program_id(2)
    sequence, tile, first, end, origin = load_segment(
        sequences.starts,
        sequences.lengths,
        sequences.segment_sequence,
        sequences.segment_tile,
        first_segment + local,
    )
    row = block * N + tl.arange(0, N)
    token = first_token + row // GROUP
    asked = (row // GROUP < tokens) & (token < end - first)
    used = parts_of(tile, parts, least_tiles)
    nobody_asks = first_token + block * N // GROUP >= end - first
    if nobody_asks | (part > used) | (end - first > few):
        return

    query_head = head * GROUP + row % GROUP
    place = (origin + first + token).to(tl.int64)
    slot = (local * tokens + row // GROUP).to(tl.int64) * (HEADS * GROUP) + query_head
    slot = slot * (1 + parts) + part
    pages = sequences.table + sequence.to(tl.int64) * sequences.table_stride
    tiles = packed.pointer + head.to(tl.int64) * packed.head_stride
    begin = tile * (part - 1) // tl.maximum(used, 1)
    stop = tile * part // tl.maximum(used, 1)
    sums_at = partial.sums + slot * C
    channel = tl.arange(0, channel_places(LAYOUT))
    query_at = query.pointer + place * query.token_stride + query_head * query.head_stride
    if part == 0:
        page = tl.load(sequences.tail_page + sequence * sequences.tail_stride).to(tl.int64)
        row_0 = origin.to(tl.int64)
        sums, peak, total = attend_own(
            _load_queries(query_at, channel, asked, LAYOUT),
            first + token,
            tail.pointer + page * tail.page_stride + head.to(tl.int64) * tail.head_stride,
            keys.pointer + row_0 * keys.token_stride + head * keys.head_stride,
            keys.token_stride,
            values.pointer + row_0 * values.token_stride + head * values.head_stride,
            values.token_stride,
            first,
            end,
            scale,
            LAYOUT.head_dim,
            CAP,
        )
        _store_sums(sums_at, channel, channel < LAYOUT.head_dim, sums, total, asked)
    else:
        planes, peak, total = attend_packed(
            rotated + (place * (HEADS * GROUP) + query_head) * C,
            asked,
            tiles,
            packed.page_stride,
            pages,
            begin,
            stop,
            scale,
            LAYOUT,
            CAP,
            ASM,
            STAGES,
        )
        WORDS: tl.constexpr = plane_words(LAYOUT, LAYOUT.format.value_bits)
        word = tl.arange(0, plane_width(LAYOUT, LAYOUT.format.value_bits))
        for plane in tl.static_range(plane_count(LAYOUT.format.value_bits)):
            _store_sums(sums_at, plane * WORDS + word, word < WORDS, planes[plane], total, asked)
    tl.store(partial.exponents + slot, peak + tl.log2(total), mask=asked)
