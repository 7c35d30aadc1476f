"""The tokens that stay in open tiles, into the tail pages of their sequences."""

import torch
import triton
import triton.language as tl

from kvarn.format.layout import TILE_TOKENS, TileLayout
from kvarn.kernels.batch import LayerCache
from kvarn.kernels.triton.arguments import Pages, Rows, Sequences
from kvarn.kernels.triton.step import NULL, TILE, Step, load_segment

CHUNK_ROWS = 16
"""Rows of a tile that one program copies, in a step of more than single tokens."""


def write_tails(step: Step, cache: LayerCache, *, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Write a step's tokens of open tiles, except those of dummy sequences.

    Args:
        step: the batch.
        cache: the layer's pages.
        keys: ``[tokens, H, D]`` of the new tokens, channels contiguous.
        values: likewise.
    """
    single = step.segment_sequence is None
    chunks = 1 if single else TILE_TOKENS // CHUNK_ROWS
    _write[(step.segments, cache.tail.shape[1], chunks)](
        Sequences.of(step, cache),
        cache.tail_page.stride(0),
        Pages.of(cache.tail),
        Rows.of(keys),
        Rows.of(values),
        ROWS=1 if single else CHUNK_ROWS,
        LAYOUT=cache.layout,
        num_warps=1 if single else 4,
    )


@triton.constexpr_function
def channel_places(layout: TileLayout) -> int:
    """Places for the channels of a row: a power of two."""
    return triton.next_power_of_2(layout.head_dim)


@triton.jit(do_not_specialize=["tail_stride"])
def _write(
    sequences: Sequences,
    tail_stride: tl.tensor,
    tail: Pages,
    keys: Rows,
    values: Rows,
    ROWS: tl.constexpr,
    LAYOUT: tl.constexpr,
) -> None:
    D: tl.constexpr = LAYOUT.head_dim
    sequence, _, first, end, origin = load_segment(
        sequences.starts,
        sequences.lengths,
        sequences.segment_sequence,
        sequences.segment_tile,
        tl.program_id(0),
    )
    begin = tl.program_id(2) * ROWS + (first if ROWS == 1 else 0)
    if (end < TILE) & (begin < end) & (begin + ROWS > first):
        page = tl.load(sequences.tail_page + sequence * tail_stride).to(tl.int64)
        if page != NULL:
            head = tl.program_id(1).to(tl.int64)
            row = begin + tl.arange(0, ROWS)
            channel = tl.arange(0, channel_places(LAYOUT))
            exists = ((row >= first) & (row < end))[:, None] & (channel < D)[None, :]
            token = (origin + row).to(tl.int64)[:, None]
            new = keys.pointer + token * keys.token_stride + head * keys.head_stride
            key = tl.load(new + channel[None, :], mask=exists)
            new = values.pointer + token * values.token_stride + head * values.head_stride
            value = tl.load(new + channel[None, :], mask=exists)
            place = tail.pointer + page * tail.page_stride + head * tail.head_stride
            places = place + row[:, None] * (2 * D) + channel[None, :]
            tl.store(places, key, mask=exists)
            tl.store(places + D, value, mask=exists)
