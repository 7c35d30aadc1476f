"""The best cuts of a shape for Triton's kernels, to be held against the one that is chosen."""

from collections.abc import Sequence
from dataclasses import replace

from bench.kernels.attention import cut_of
from bench.kernels.clock import microseconds
from bench.kernels.implementation import TRITON
from bench.kernels.layer import Layer
from bench.kernels.shape import Shape
from kvarn.format.layout import FORMATS, TILE_TOKENS

SHOWN = 8


def print_cuts(shapes: Sequence[Shape], names: Sequence[str]) -> None:
    """For every shape and format."""
    for shape in shapes:
        for name in names:
            _print_cuts(shape, name)


def _print_cuts(shape: Shape, name: str) -> None:
    layer = Layer(shape, FORMATS[name], TRITON)
    chosen = cut_of(shape, layer.layout)
    tiles = shape.longest // TILE_TOKENS
    cuts = {
        replace(chosen, parts=parts, warps=warps, stages=stages)
        for parts in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
        if parts <= min(tiles, 4096 // len(shape.lengths) // shape.kv_heads)
        for warps in (1, 2)
        for stages in (1, 2, 3, 5)
    }
    times = {cut: microseconds(layer.attend(cut)) for cut in sorted(cuts | {chosen}, key=repr)}
    print(f"{shape.name} {name}: chosen {times[chosen]:.1f} µs {chosen}")
    for cut in sorted(times, key=lambda cut: times[cut])[:SHOWN]:
        print(f"  {times[cut]:8.1f} µs  parts {cut.parts} warps {cut.warps} stages {cut.stages}")
