"""Points of attention: every format in a step, and the rivals in the same run."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from bench.kernels.clock import microseconds
from bench.kernels.flash import Flash, FlashFp8
from bench.kernels.implementation import Implementation
from bench.kernels.int4 import Int4
from bench.kernels.layer import Layer
from bench.kernels.record import Point, point
from bench.kernels.rival import Rival, RivalError, best, moved_bytes
from bench.kernels.shape import DEVICE, Shape
from bench.kernels.turboquant import TurboQuant
from kvarn.format.layout import FORMATS, TILE_TOKENS, TileLayout
from kvarn.kernels.triton.parts import Cut, even_cut, processors

RIVALS: tuple[type[Rival], ...] = (Flash, FlashFp8, Int4, TurboQuant)


def measure(
    shape: Shape,
    names: Sequence[str],
    implementation: Implementation,
    *,
    copy: float,
    rivals: Mapping[type[Rival], str | None],
) -> Iterator[Point]:
    """The rivals' points, then ours.

    Args:
        shape: of the step.
        names: of our formats.
        implementation: of our attention.
        copy: bytes a second of an elementwise copy.
        rivals: those to measure; beside each, why it is not, if a check has found a reason.
    """
    found = {rival: _time(rival, shape, note) for rival, note in rivals.items()}
    times = {rival.name: us for rival, (us, _) in found.items()}
    for rival, (us, note) in found.items():
        size = moved_bytes(rival, shape)
        yield point(shape, rival.name, us, moved_bytes=size, copy=copy, times=times, note=note)
    for name in names:
        layer = Layer(shape, FORMATS[name], implementation)
        us = microseconds(layer.timed())
        decoding = shape.stage == "decode"
        ran = implementation.ran(layer.steps[0], layer.cache, layer.attention) if decoding else None
        yield point(
            shape,
            name,
            us,
            moved_bytes=layer.moved_bytes,
            copy=copy,
            times=times,
            whole_us=microseconds(layer.whole()) if decoding else us,
            kernels=ran,
            parts=cut_of(shape, layer.layout).parts if ran == "triton" else None,
        )
        del layer
        torch.cuda.empty_cache()


def cut_of(shape: Shape, layout: TileLayout) -> Cut:
    """How Triton's kernels cut a decode step."""
    return even_cut(
        layout,
        rows=shape.group,
        histories=len(shape.lengths) * shape.kv_heads,
        tiles=(shape.longest - 1) // TILE_TOKENS,
        processors=processors(DEVICE),
    )


def _time(rival: type[Rival], shape: Shape, note: str | None) -> tuple[float | None, str | None]:
    if note:
        return None, note
    try:
        return best(rival, shape), None
    except RivalError as reason:
        return None, str(reason)
