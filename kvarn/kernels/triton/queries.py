"""Whose queries a program takes, and where they are among the batch's tokens."""

from typing import NamedTuple

import triton
import triton.language as tl

from kvarn.kernels.triton.arguments import Rows, Sequences
from kvarn.kernels.triton.step import load_segment


class Segment(NamedTuple):
    """A run of a sequence's new tokens in one tile.

    Attributes:
        sequence: index in the batch.
        tile: index in the sequence, which is also how many tiles are before it.
        first: row of its first token in the tile.
        end: row after its last one, equal to `first` where there is no such segment.
        origin: index that row 0 would have among the batch's tokens.
    """

    sequence: tl.tensor
    tile: tl.tensor
    first: tl.tensor
    end: tl.tensor
    origin: tl.tensor


class Asked(NamedTuple):
    """Queries of one KV head, N rows with the heads of a group side by side.

    Attributes:
        exists: which of the rows there are.
        sight: last row of the own tile that each sees.
        place: int64 index of its token in the batch.
        head: its query head.
    """

    exists: tl.tensor
    sight: tl.tensor
    place: tl.tensor
    head: tl.tensor


@triton.jit
def segment_at(sequences: Sequences, index: tl.tensor) -> Segment:
    """A segment as :func:`kvarn.kernels.triton.step.load_segment` gives it."""
    sequence, tile, first, end, origin = load_segment(
        sequences.starts,
        sequences.lengths,
        sequences.segment_sequence,
        sequences.segment_tile,
        index,
    )
    return Segment(sequence, tile, first, end, origin)


@triton.jit
def rows_asked(
    segment: Segment,
    head: tl.tensor,
    row: tl.tensor,
    first_token: tl.tensor,
    tokens: tl.tensor,
    GROUP: tl.constexpr,
) -> Asked:
    """Rows of a segment and KV head, of which `tokens` tokens from `first_token` on are asked."""
    token = first_token + row // GROUP
    exists = (row // GROUP < tokens) & (token < segment.end - segment.first)
    sight = segment.first + token
    place = (segment.origin + sight).to(tl.int64)
    return Asked(exists, sight, place, head * GROUP + row % GROUP)


@triton.jit
def pointers(rows: Rows, asked: Asked) -> tl.tensor:
    """Pointers ``[N]`` to channel 0 of the rows asked."""
    return rows.pointer + asked.place * rows.token_stride + asked.head * rows.head_stride


@triton.jit
def rotated_pointers(
    rotated: tl.tensor, asked: Asked, HEADS: tl.constexpr, C: tl.constexpr
) -> tl.tensor:
    """Pointers ``[N]`` to the same among rotated queries ``[tokens, HEADS, C]``."""
    return rotated + (asked.place * HEADS + asked.head) * C
