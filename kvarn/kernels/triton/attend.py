"""Attention of few queries over much history, cut into parts that run side by side.

A program takes N query rows of one segment and KV head. Part 0 is the segment's own tile, raw, and
the parts after it are runs of the packed tiles before it, in the format's rotation.
:mod:`kvarn.kernels.triton.combine` joins them.
"""

import triton
import triton.language as tl

from kvarn.kernels.triton.arguments import Pages, Partial, Rows, Sequences
from kvarn.kernels.triton.own import Own, attend_own, channel_places, operand, own_of
from kvarn.kernels.triton.packed import History, attend_packed, history_of
from kvarn.kernels.triton.planes import plane_count, plane_width, plane_words
from kvarn.kernels.triton.queries import Asked, pointers, rotated_pointers, rows_asked, segment_at
from kvarn.kernels.triton.rotate import padded_channels


@triton.jit
def parts_of(tile: tl.tensor, parts: tl.tensor, least_tiles: tl.tensor) -> tl.tensor:
    """Parts that a history of `tile` tiles is cut into."""
    return tl.minimum(parts, tl.cdiv(tile, least_tiles))


@triton.jit
def _store_sums(
    at: tl.tensor,
    place: tl.tensor,
    held: tl.tensor,
    sums: tl.tensor,
    total: tl.tensor,
    exists: tl.tensor,
) -> None:
    """Store columns ``[·, N]``, relative to their totals, at places of the rows `at`.

    Of the places those that are `held` are stored, of the rows those that `exists`.
    """
    mask = held[:, None] & exists[None, :]
    tl.store(at[None, :] + place[:, None], sums * (1 / total)[None, :], mask=mask)


@triton.jit
def _own_part(
    query: Rows,
    asked: Asked,
    own: Own,
    scale: tl.tensor,
    sums_at: tl.tensor,
    LAYOUT: tl.constexpr,
    CAP: tl.constexpr,
) -> tl.tensor:
    """The own tile of :func:`attend`; returns the exponents of its totals."""
    channel = tl.arange(0, channel_places(LAYOUT))
    held = channel < LAYOUT.head_dim
    mask = held[:, None] & asked.exists[None, :]
    at = pointers(query, asked)
    queries = operand(tl.load(at[None, :] + channel[:, None], mask=mask, other=0.0))
    sums, peak, total = attend_own(queries, asked.sight, own, scale, LAYOUT.head_dim, CAP)
    _store_sums(sums_at, channel, held, sums, total, asked.exists)
    return peak + tl.log2(total)


@triton.jit
def _packed_part(
    rotated_at: tl.tensor,
    exists: tl.tensor,
    history: History,
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
        rotated_at, exists, history, begin, end, scale, LAYOUT, CAP, ASM, STAGES
    )
    BITS: tl.constexpr = LAYOUT.format.value_bits
    WORDS: tl.constexpr = plane_words(LAYOUT, BITS)
    word = tl.arange(0, plane_width(LAYOUT, BITS))
    for plane in tl.static_range(plane_count(BITS)):
        _store_sums(sums_at, plane * WORDS + word, word < WORDS, sums[plane], total, exists)
    return peak + tl.log2(total)


@triton.jit(
    do_not_specialize=[
        "table_stride",
        "tail_stride",
        "parts",
        "least_tiles",
        "first_segment",
        "first_token",
        "tokens",
        "few",
    ]
)
def attend(
    query: Rows,
    rotated: tl.tensor,
    keys: Rows,
    values: Rows,
    tail: Pages,
    packed: Pages,
    sequences: Sequences,
    table_stride: tl.tensor,
    tail_stride: tl.tensor,
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
    segment = segment_at(sequences, first_segment + local)
    new = segment.end - segment.first
    used = parts_of(segment.tile, parts, least_tiles)
    nobody_asks = first_token + block * N // GROUP >= new
    if nobody_asks | (part > used) | (new > few):
        return

    row = block * N + tl.arange(0, N)
    asked = rows_asked(segment, head, row, first_token, tokens, GROUP)
    slot = (local * tokens + row // GROUP).to(tl.int64) * (HEADS * GROUP) + asked.head
    slot = slot * (1 + parts) + part
    sums_at = partial.sums + slot * C
    if part == 0:
        own = own_of(tail, keys, values, sequences, tail_stride, segment, head)
        exponent = _own_part(query, asked, own, scale, sums_at, LAYOUT, CAP)
    else:
        exponent = _packed_part(
            rotated_pointers(rotated, asked, HEADS * GROUP, C),
            asked.exists,
            history_of(packed, sequences, table_stride, segment.sequence, head),
            segment.tile * (part - 1) // used,
            segment.tile * part // used,
            scale,
            sums_at,
            LAYOUT,
            CAP,
            ASM,
            STAGES,
        )
    tl.store(partial.exponents + slot, exponent, mask=asked.exists)
