"""Points of the store: tiles and tails of a step, and their part of the layer's time.

In decoding a sequence completes one tile in 128 steps. So a whole cycle of steps is timed, in which
each sequence completes one, at a moment of its own: once with the store and once without, because
the store runs while attention ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import inf

import torch

from bench.kernels.clock import microseconds
from bench.kernels.implementation import Implementation
from bench.kernels.layer import Layer
from bench.kernels.record import Point, point
from bench.kernels.shape import DEVICE, OPEN_TOKENS, Shape
from kvarn.format.layout import FORMATS, TILE_TOKENS, TileFormat
from kvarn.format.packing import decode
from kvarn.format.reference import Tile, dequantise, quantise
from kvarn.kernels.triton.step import Step, prepare


def measure(
    shape: Shape, names: Sequence[str], implementation: Implementation, *, copy: float
) -> Iterator[Point]:
    """A point of each format."""
    for name in names:
        layer = Layer(shape, FORMATS[name], implementation)
        if shape.stage == "decode":
            steps = cycle(layer)
            whole = microseconds([partial(layer.work, step) for step in steps])
            us = whole - microseconds([partial(layer.attend_step, step) for step in steps])
        else:
            us, whole = microseconds(layer.store()), microseconds(layer.whole())
        yield point(
            shape,
            name,
            us,
            stage="store",
            moved_bytes=moved_bytes(layer),
            copy=copy,
            times={},
            whole_us=whole,
            store_share=us / whole,
        )
        del layer
        torch.cuda.empty_cache()


def moved_bytes(layer: Layer) -> int:
    """Bytes that must be read and written; in decoding, in the mean of a cycle."""
    shape = layer.shape
    if shape.stage == "prefill":
        return layer.stored_bytes
    row_bytes = 2 * shape.head_dim * layer.cache.tail.element_size()
    rows = shape.tokens * shape.kv_heads
    return rows * (layer.layout.tile_bytes // TILE_TOKENS + 3 * row_bytes)


def cycle(layer: Layer) -> list[Step]:
    """Steps that follow each other until every sequence has completed one tile."""
    batch = layer.steps[0].batch
    whole = (batch.lengths - 1) // TILE_TOKENS * TILE_TOKENS
    begin = torch.randint(0, TILE_TOKENS, whole.shape, device=DEVICE)
    lengths = [whole + (begin + index) % TILE_TOKENS + 1 for index in range(TILE_TOKENS)]
    return [prepare(replace(batch, lengths=each.int())) for each in lengths]


def small(shape: Shape) -> Shape:
    """A step that is checked in a moment, in which tiles are completed."""
    short = shape.small()
    if short.stage == "prefill":
        return short
    lengths = tuple(each + OPEN_TOKENS * (index % 2) for index, each in enumerate(short.lengths))
    return replace(short, lengths=lengths)


def error(shape: Shape, tile_format: TileFormat, implementation: Implementation) -> float:
    """How far what a step stores is from the reference.

    Returns:
        the part of the codes that are others, or the part by which the tiles come less near to the
        rows, whichever is larger; infinite if tails are not the rows, bit for bit.
    """
    layer = Layer(shape, tile_format, implementation)
    raw = [torch.stack(layer.raw(index)) for index in range(len(shape.lengths))]
    layer.whole()[0]()
    return max(_error(layer, index, rows) for index, rows in enumerate(raw))


def _error(layer: Layer, index: int, rows: torch.Tensor) -> float:
    """Of a sequence; `rows` ``[2, ·, H, D]``."""
    length = layer.shape.lengths[index]
    count = length % TILE_TOKENS
    tail = layer.cache.tail[layer.cache.tail_page[index], :, :count].chunk(2, dim=-1)
    if not torch.equal(torch.stack(tail).transpose(1, 2), rows[:, rows.shape[1] - count :]):
        return inf
    closed = layer.closed(index)
    if not closed:
        return 0.0
    whole = rows[:, : closed * TILE_TOKENS]
    tiles = whole.view(2, closed, TILE_TOKENS, *whole.shape[2:]).transpose(2, 3)
    want = quantise(layer.layout, *tiles)
    got = decode(layer.layout, layer.tiles(index, length // TILE_TOKENS - closed))
    apart = max(
        float((got[name] != want[name]).float().mean()) for name in ("key_codes", "value_codes")
    )
    return max(apart, _distance(layer, got, tiles) / _distance(layer, want, tiles) - 1)


def _distance(layer: Layer, tile: Tile, rows: torch.Tensor) -> float:
    """Of tiles from the rows that they stand for."""
    return float((torch.stack(dequantise(layer.layout, tile)) - rows.float()).norm())
