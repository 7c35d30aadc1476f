"""What all layers of a step share, made on the device without waiting for it.

A *segment* is the run of a sequence's new tokens that lie in one tile. Grids are bounded by numbers
that the host knows; a program beyond the last segment ends at once.

In a step of single tokens segment s is the one token of sequence s, and nothing is made at all:
such a step may be captured in a CUDA graph, which replays kernels on the batch's own tensors.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl

from kvarn.format.layout import TILE_TOKENS
from kvarn.kernels.batch import NULL_PAGE, Batch

NONE = -1
"""In a segment's tensors: there is no such segment."""

TILE = tl.constexpr(TILE_TOKENS)
NULL = tl.constexpr(NULL_PAGE)


@dataclass(frozen=True)
class Step:
    """A batch and its segments.

    Attributes:
        batch: the sequences.
        segments: how many there are, or a little more: programs of a grid over segments.
        segment_sequence: int32 ``[segments]`` index of each segment's sequence in the batch;
            :data:`NONE` beyond the last. None in a step of single tokens.
        segment_tile: int32 ``[segments]`` index of each segment's tile in its sequence, likewise.
        made: what a layer made of the step that others need as well, by anything.
    """

    batch: Batch
    segments: int
    segment_sequence: torch.Tensor | None
    segment_tile: torch.Tensor | None
    made: dict[Hashable, Any] = field(default_factory=dict, compare=False)


def prepare(batch: Batch) -> Step:
    """Cut a batch into segments."""
    sequences = len(batch.lengths)
    if batch.most_new == 1:
        return Step(batch, sequences, None, None)
    segments = _most_segments(sequences, batch.tokens)
    computed = batch.lengths - batch.starts.diff()
    first_tile = computed // TILE_TOKENS
    count = triton.cdiv(batch.lengths, TILE_TOKENS) - first_tile
    end = torch.where(computed < batch.lengths, count, 0).cumsum(0)
    index = torch.arange(segments, device=end.device)
    sequence = torch.searchsorted(end, index, right=True, out_int32=True)
    known = sequence.clamp(max=sequences - 1)
    tile = first_tile[known] + index - (end - count)[known]
    beyond = sequence == sequences
    return Step(
        batch,
        segments,
        segment_sequence=sequence.masked_fill(beyond, NONE),
        segment_tile=tile.int().masked_fill(beyond, NONE),
    )


def _most_segments(sequences: int, tokens: int) -> int:
    """The most segments that so many tokens can have.

    A sequence's n > 0 tokens lie in at most ``(n + 126) // 128 + 1`` tiles, and in no more than n.
    """
    return min(tokens, (tokens + (2 * TILE_TOKENS - 2) * sequences) // TILE_TOKENS)


@triton.jit
def load_segment(
    starts: tl.tensor,
    lengths: tl.tensor,
    segment_sequence: tl.tensor | None,
    segment_tile: tl.tensor | None,
    index: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """One segment, all int32.

    Args:
        starts: of the batch.
        lengths: of the batch.
        segment_sequence: of the step.
        segment_tile: of the step.
        index: of the segment.

    Returns:
        its sequence, its tile, the row of its first token in the tile, the row after its last one,
        and the index that row 0 would have among the batch's tokens. The two rows are equal where
        there is no such segment.
    """
    if segment_sequence is None:
        sequence = index
        tile = (tl.load(lengths + sequence).to(tl.int32) - 1) // TILE
    else:
        sequence = tl.load(segment_sequence + index)
        tile = tl.load(segment_tile + index)
    exists = sequence >= 0
    length = tl.load(lengths + sequence, mask=exists, other=0).to(tl.int32)
    start = tl.load(starts + sequence, mask=exists, other=0).to(tl.int32)
    new = tl.load(starts + sequence + 1, mask=exists, other=0).to(tl.int32) - start
    before = length - new - tile * TILE
    first = tl.maximum(before, 0)
    end = tl.where(new > 0, tl.minimum(length - tile * TILE, TILE), first)
    return sequence, tile, first, end, start - before
