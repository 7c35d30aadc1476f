"""Attention of few queries over much history, cut into parts that run side by side.

A program takes N query rows of one segment and KV head. Part 0 is the segment's own tile, raw, and
the parts after it are runs of the packed tiles before it, in the format's rotation.
:mod:`kvarn.kernels.triton.combine` joins them.
"""

import triton
import triton.language as tl

from kvarn.kernels.triton.arguments import Pages, Partial, Rows, Sequences
from kvarn.kernels.triton.own import attend_own, channel_places, operand, row_0_of, tail_of
from kvarn.kernels.triton.packed import attend_packed
from kvarn.kernels.triton.planes import plane_count, plane_width, plane_words
from kvarn.kernels.triton.rotate import padded_channels
from kvarn.kernels.triton.step import load_segment


@triton.jit
def parts_of(tile: tl.tensor, parts: tl.tensor, least_tiles: tl.tensor) -> tl.tensor:
    """Parts that a history of `tile` tiles is cut into."""
    return tl.minimum(parts, tl.cdiv(tile, least_tiles))


@triton.jit
def segment_at(sequences: Sequences, index: tl.tensor) -> tuple[tl.tensor, ...]:
    """A segment as :func:`kvarn.kernels.triton.step.load_segment` gives it."""
    return load_segment(
        sequences.starts,
        sequences.lengths,
        sequences.segment_sequence,
        sequences.segment_tile,
        index,
    )


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


@triton.jit
def _own_part(
    query_at: tl.tensor,
    asked: tl.tensor,
    sight: tl.tensor,
    tail_at: tl.tensor,
    keys_at: tl.tensor,
    key_stride: tl.tensor,
    values_at: tl.tensor,
    value_stride: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    scale: tl.tensor,
    sums_at: tl.tensor,
    LAYOUT: tl.constexpr,
    CAP: tl.constexpr,
) -> tl.tensor:
    """The own tile of :func:`attend`; returns the exponents of its totals."""
    channel = tl.arange(0, channel_places(LAYOUT))
    exists = channel < LAYOUT.head_dim
    mask = exists[:, None] & asked[None, :]
    queries = operand(tl.load(query_at[None, :] + channel[:, None], mask=mask, other=0.0))
    sums, peak, total = attend_own(
        queries,
        sight,
        tail_at,
        keys_at,
        key_stride,
        values_at,
        value_stride,
        first,
        end,
        scale,
        LAYOUT.head_dim,
        CAP,
    )
    _store_sums(sums_at, channel, exists, sums, total, asked)
    return peak + tl.log2(total)


@triton.jit
def _packed_part(
    rotated_at: tl.tensor,
    asked: tl.tensor,
    tiles: tl.tensor,
    page_stride: tl.tensor,
    pages: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    scale: tl.tensor,
    sums_at: tl.tensor,
    LAYOUT: tl.constexpr,
    CAP: tl.constexpr,
    ASM: tl.constexpr,
    STAGES: tl.constexpr,
) -> tl.tensor:
    """A run of packed tiles of :func:`attend`; returns the exponents of its totals."""
    sums, peak, total = attend_packed(
        rotated_at, asked, tiles, page_stride, pages, begin, end, scale, LAYOUT, CAP, ASM, STAGES
    )
    BITS: tl.constexpr = LAYOUT.format.value_bits
    WORDS: tl.constexpr = plane_words(LAYOUT, BITS)
    word = tl.arange(0, plane_width(LAYOUT, BITS))
    for plane in tl.static_range(plane_count(BITS)):
        _store_sums(sums_at, plane * WORDS + word, word < WORDS, sums[plane], total, asked)
    return peak + tl.log2(total)


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
    sequence, tile, first, end, origin = segment_at(sequences, first_segment + local)
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
    if part == 0:
        exponent = _own_part(
            query.pointer + place * query.token_stride + query_head * query.head_stride,
            asked,
            first + token,
            tail_of(tail, sequences, sequence, head),
            row_0_of(keys, origin, head),
            keys.token_stride,
            row_0_of(values, origin, head),
            values.token_stride,
            first,
            end,
            scale,
            partial.sums + slot * C,
            LAYOUT,
            CAP,
        )
    else:
        exponent = _packed_part(
            rotated + (place * (HEADS * GROUP) + query_head) * C,
            asked,
            packed.pointer + head.to(tl.int64) * packed.head_stride,
            packed.page_stride,
            sequences.table + sequence.to(tl.int64) * sequences.table_stride,
            tile * (part - 1) // used,
            tile * part // used,
            scale,
            partial.sums + slot * C,
            LAYOUT,
            CAP,
            ASM,
            STAGES,
        )
    tl.store(partial.exponents + slot, exponent, mask=asked)
