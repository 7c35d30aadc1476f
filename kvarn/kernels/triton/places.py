"""Where a piece of the prompts' attention has its keys and values, made on the device.

Pages of histories come first, sequence by sequence, and pages of own tiles after all of them. To
the library that attends, every segment is a sequence of its own: it attends its queries to the
pages of the tiles before it and, at the end, to that of its own tile. What a query sees is then
what it should: its own tile as the model made it, all others as they are stored.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
import triton
import triton.language as tl

from kvarn.kernels.triton.pieces import Piece
from kvarn.kernels.triton.step import NONE, TILE, Step, load_segment

ABSENT = tl.constexpr(NONE)

SINGLE = tl.constexpr(1)
"""Tokens of a segment that others attend."""

COLUMNS = tl.constexpr(128)
"""Pages of a segment that are written at once."""

SEQUENCES = 1024
"""Sequences that a program looks at; of a larger batch, as many as there are. One number for all
usual batches, so that the kernel is compiled once."""

WHOLE = 2**30
"""More tiles than a history has."""


class _Tensors(NamedTuple):
    """Those of :class:`Places`, as the kernel takes them."""

    starts: torch.Tensor
    lengths: torch.Tensor
    table: torch.Tensor
    own: torch.Tensor
    sequence: torch.Tensor
    tile: torch.Tensor


@dataclass(frozen=True)
class Places:
    """A piece, and its pages; all tensors are int32.

    Attributes:
        piece: which.
        starts: ``[segments + 1]`` index of each segment's first new token; segments of other
            sequences have none.
        lengths: ``[segments]`` keys that each segment attends to; none for those of one token.
        table: ``[segments, width]`` their pages.
        own: ``[segments]`` page of a segment's own tile, or :data:`NONE`; of no meaning where the
            piece has none.
        sequence: ``[tiles]`` sequence of each page of a history, or :data:`NONE`.
        tile: ``[tiles]`` its tile in the sequence.
    """

    piece: Piece
    starts: torch.Tensor
    lengths: torch.Tensor
    table: torch.Tensor
    own: torch.Tensor
    sequence: torch.Tensor
    tile: torch.Tensor

    @classmethod
    def of(cls, step: Step, piece: Piece) -> Self:
        """The places of a piece of a step."""
        segments, batch = step.segments, step.batch
        shapes = (segments + 1, segments, (segments, piece.width), segments, *(piece.tiles,) * 2)
        tensors = _Tensors(
            *(torch.empty(shape, dtype=torch.int32, device=batch.starts.device) for shape in shapes)
        )
        _place[(max(segments, piece.tiles),)](
            batch.starts,
            batch.lengths,
            step.segment_sequence,
            step.segment_tile,
            tensors,
            segments,
            piece.tiles,
            piece.first,
            piece.last,
            piece.begin,
            WHOLE if piece.stop is None else piece.stop,
            piece.width,
            OWN=piece.stop is None,
            SEQUENCES=max(SEQUENCES, triton.next_power_of_2(len(batch.lengths))),
        )
        return cls(piece, *tensors)


@triton.jit
def _histories(
    starts: tl.tensor,
    lengths: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    begin: tl.tensor,
    stop: tl.tensor,
    SEQUENCES: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Index, pages of the history, first own tile and pages of own tiles of all sequences."""
    index = tl.arange(0, SEQUENCES)
    inside = (index >= first) & (index < last)
    start = tl.load(starts + index, mask=inside, other=0).to(tl.int32)
    new = tl.load(starts + index + 1, mask=inside, other=0).to(tl.int32) - start
    length = tl.load(lengths + index, mask=inside, other=0).to(tl.int32)
    first_tile = (length - new) // TILE
    last_tile = (length - 1) // TILE
    several = new > SINGLE
    tiles = tl.where(several, tl.maximum(tl.minimum(last_tile, stop) - begin, 0), 0)
    return index, tiles, first_tile, tl.where(several, last_tile - first_tile + 1, 0)


@triton.jit(do_not_specialize=["segments", "pages", "first", "last", "begin", "stop", "width"])
def _place(
    starts: tl.tensor,
    lengths: tl.tensor,
    segment_sequence: tl.tensor,
    segment_tile: tl.tensor,
    places: _Tensors,
    segments: tl.tensor,
    pages: tl.tensor,
    first: tl.tensor,
    last: tl.tensor,
    begin: tl.tensor,
    stop: tl.tensor,
    width: tl.tensor,
    OWN: tl.constexpr,
    SEQUENCES: tl.constexpr,
) -> None:
    """Segment i and page i."""
    i = tl.program_id(0)
    index, tiles, first_tile, own_tiles = _histories(
        starts, lengths, first, last, begin, stop, SEQUENCES
    )
    if i < pages:
        sequence = tl.sum((tl.cumsum(tiles, 0) <= i).to(tl.int32), 0)
        before = tl.sum(tl.where(index < sequence, tiles, 0), 0)
        tl.store(places.sequence + i, tl.where(i < tl.sum(tiles, 0), sequence, ABSENT))
        tl.store(places.tile + i, begin + i - before)
    if i < segments:
        sequence, tile, first_row, end_row, origin = load_segment(
            starts, lengths, segment_sequence, segment_tile, i
        )
        low = tl.load(starts + first).to(tl.int32)
        high = tl.load(starts + last).to(tl.int32)
        token = tl.where(sequence < 0, high, origin + first_row)
        tl.store(places.starts + i, tl.minimum(tl.maximum(token, low), high))
        tl.store(places.starts + segments, high)

        asked = (sequence >= first) & (sequence < last) & (end_row - first_row > SINGLE)
        count = tl.maximum(tl.minimum(tile, stop) - begin, 0)
        length = count * TILE + (end_row if OWN else 0)
        tl.store(places.lengths + i, tl.where(asked, length, 0))

        earlier = index < sequence
        page = tl.sum(tl.where(earlier, tiles, 0), 0)
        own = tl.sum(tiles + tl.where(earlier, own_tiles, 0), 0)
        own += tile - tl.sum(tl.where(index == sequence, first_tile, 0), 0)
        tl.store(places.own + i, tl.where(asked, own, ABSENT))
        for start in range(0, width, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            chosen = tl.where(asked & (column < count), page + column, 0)
            if OWN:
                chosen = tl.where(asked & (column == count), own, chosen)
            tl.store(places.table + i * width + column, chosen, mask=column < width)
