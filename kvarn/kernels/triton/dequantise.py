"""Keys and values as the model made them, in pages of scratch memory.

Codes of a plane are the rows of a product with the plane's part of the rotation, so that rotating
back also puts the planes together.
"""

import torch
import triton
import triton.language as tl

from kvarn.format.layout import TILE_TOKENS, TileLayout
from kvarn.kernels.batch import LayerCache
from kvarn.kernels.triton.arguments import Attention, Pages, Rows, Sequences
from kvarn.kernels.triton.own import channel_places, own_keys, own_of, own_values
from kvarn.kernels.triton.packed import element, middle
from kvarn.kernels.triton.places import Places
from kvarn.kernels.triton.planes import (
    code_planes,
    load_codes,
    plane_count,
    plane_factor,
    plane_words,
    word_places,
)
from kvarn.kernels.triton.queries import segment_at
from kvarn.kernels.triton.rotate import INTERPRETED, norm, signs
from kvarn.kernels.triton.step import TILE, Step

ROWS = tl.constexpr(64)
"""Rows of a tile that a program dequantises: as many as one product has, so that few registers are
used and many programs run side by side."""

COLUMNS = tl.constexpr(128)
"""Channels of a tile that it makes, at most."""

OWN_ROWS = 32
"""Rows of an own tile that a program copies."""


def write_pages(
    step: Step, cache: LayerCache, attention: Attention, places: Places, pages: torch.Tensor
) -> None:
    """Write the pages of a piece.

    Args:
        step: the batch.
        cache: the layer's pages, complete tiles stored and tails not yet written.
        attention: what is asked.
        places: of the piece.
        pages: of keys and of values, ``[2, pages, 128, H, D]``.
    """
    layout, heads = cache.layout, pages.shape[3]
    if places.piece.tiles:
        blocks = TILE_TOKENS // ROWS.value * triton.cdiv(layout.head_dim, COLUMNS.value)
        _dequantise[(places.piece.tiles, heads, 2 * blocks)](
            Pages.of(cache.packed),
            step.batch.table,
            step.batch.table.stride(0),
            places.sequence,
            places.tile,
            *pages,
            signs(layout, torch.float16, pages.device),
            HEADS=heads,
            LAYOUT=layout,
            ASM=not INTERPRETED.value,
        )
    if places.piece.own:
        _copy_own[(step.segments, heads, TILE_TOKENS // OWN_ROWS)](
            Sequences.of(step, cache),
            cache.tail_page.stride(0),
            Pages.of(cache.tail),
            Rows.of(attention.keys),
            Rows.of(attention.values),
            places.own,
            *pages,
            HEADS=heads,
            ROWS=OWN_ROWS,
            LAYOUT=layout,
        )


@triton.constexpr_function
def _columns(layout: TileLayout) -> int:
    """Channels that a program of :func:`_dequantise` makes."""
    return min(COLUMNS.value, channel_places(layout))


@triton.jit
def _page_rows(
    pages: tl.tensor,
    page: tl.tensor,
    head: tl.tensor,
    row: tl.tensor,
    channel: tl.tensor,
    HEADS: tl.constexpr,
    LAYOUT: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Pointers to channels of rows of a head, and whether there are such channels."""
    at = ((page.to(tl.int64) * TILE + row) * HEADS + head) * LAYOUT.head_dim
    pointers = pages + at[:, None] + channel[None, :]
    return pointers, tl.broadcast_to((channel < LAYOUT.head_dim)[None, :], pointers.shape)


@triton.jit
def _rows(
    tile: tl.tensor,
    token: tl.tensor,
    channel: tl.tensor,
    matrix: tl.tensor,
    OF: tl.constexpr,
    BITS: tl.constexpr,
    LAYOUT: tl.constexpr,
    ASM: tl.constexpr,
) -> tl.tensor:
    """Some channels of the keys or values of some tokens of a tile, float32."""
    D: tl.constexpr = LAYOUT.head_dim
    WORDS: tl.constexpr = plane_words(LAYOUT, BITS)
    # Words of a token's keys lie side by side, words of a token's values a tile's width apart.
    stride: tl.constexpr = 1 if OF == "key" else TILE
    step: tl.constexpr = D * BITS // 16 if OF == "key" else 1
    word, exists = word_places(LAYOUT, BITS)
    words, high = load_codes(
        (tile + element(LAYOUT, OF + "_codes")).to(tl.pointer_type(tl.int16)),
        stride,
        token[:, None] * step,
        word[None, :],
        exists[None, :],
        LAYOUT,
        BITS,
    )
    token_scale = tl.load(tile + element(LAYOUT, OF + "_token_scale") + token).to(tl.float32)
    planes = code_planes(words, high, BITS, ASM)
    place = tl.arange(0, word.shape[0])
    rows = tl.zeros([token.shape[0], channel.shape[0]], tl.float32)
    for plane in tl.static_range(plane_count(BITS)):
        vectors = tile + plane * (D // plane_count(BITS)) + word
        scale = tl.load(vectors + element(LAYOUT, OF + "_channel_scale"), mask=exists, other=0.0)
        mean = tl.load(vectors + element(LAYOUT, OF + "_mean"), mask=exists, other=0.0)
        codes = planes[plane].to(tl.float32) * plane_factor(BITS, plane) - middle(BITS)
        part = codes * (token_scale[:, None] * scale.to(tl.float32)[None, :])
        part += mean.to(tl.float32)[None, :]
        turn = matrix + (plane * WORDS + place)[:, None] * D + channel[None, :]
        there = (place < WORDS)[:, None] & (channel < D)[None, :]
        rows = tl.dot(part.to(tl.float16), tl.load(turn, mask=there, other=0.0), rows)
    return rows * norm(LAYOUT)


@triton.jit(do_not_specialize=["table_stride"])
def _dequantise(
    packed: Pages,
    table: tl.tensor,
    table_stride: tl.tensor,
    page_sequence: tl.tensor,
    page_tile: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    matrix: tl.tensor,
    HEADS: tl.constexpr,
    LAYOUT: tl.constexpr,
    ASM: tl.constexpr,
) -> None:
    """Keys or values of a block of rows and channels; the grid is ``(pages, H, 2 · blocks)``."""
    index = tl.program_id(0)
    sequence = tl.load(page_sequence + index)
    if sequence < 0:
        return
    at = table + sequence.to(tl.int64) * table_stride + tl.load(page_tile + index)
    head = tl.program_id(1)
    tile = packed.pointer + tl.load(at).to(tl.int64) * packed.page_stride
    tile = (tile + head.to(tl.int64) * packed.head_stride).to(tl.pointer_type(tl.float16))
    block = tl.program_id(2) // 2
    row = block % (TILE // ROWS) * ROWS + tl.arange(0, ROWS)
    channel = block // (TILE // ROWS) * COLUMNS + tl.arange(0, _columns(LAYOUT))
    if tl.program_id(2) % 2 == 0:
        rows = _rows(tile, row, channel, matrix, "key", LAYOUT.format.key_bits, LAYOUT, ASM)
        out, mask = _page_rows(keys, index, head, row, channel, HEADS, LAYOUT)
        tl.store(out, rows, mask=mask)
    else:
        rows = _rows(tile, row, channel, matrix, "value", LAYOUT.format.value_bits, LAYOUT, ASM)
        out, mask = _page_rows(values, index, head, row, channel, HEADS, LAYOUT)
        tl.store(out, rows, mask=mask)


@triton.jit(do_not_specialize=["tail_stride"])
def _copy_own(
    sequences: Sequences,
    tail_stride: tl.tensor,
    tail: Pages,
    keys: Rows,
    values: Rows,
    own: tl.tensor,
    key_pages: tl.tensor,
    value_pages: tl.tensor,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    LAYOUT: tl.constexpr,
) -> None:
    """Some rows of a segment's own tile, zeros at its end; the grid is ``(segments, H, ·)``."""
    D: tl.constexpr = LAYOUT.head_dim
    PLACES: tl.constexpr = channel_places(LAYOUT)
    page = tl.load(own + tl.program_id(0))
    if page < 0:
        return
    segment = segment_at(sequences, tl.program_id(0))
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, PLACES)
    found = own_of(tail, keys, values, sequences, tail_stride, segment, head)
    rows = own_keys(found, row, D, PLACES)
    out, mask = _page_rows(key_pages, page, head, row, channel, HEADS, LAYOUT)
    tl.store(out, rows, mask=mask)
    rows = own_values(found, row, D, PLACES)
    out, mask = _page_rows(value_pages, page, head, row, channel, HEADS, LAYOUT)
    tl.store(out, rows, mask=mask)
