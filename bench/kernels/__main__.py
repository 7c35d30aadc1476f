"""The benchmark: `python -m bench.kernels [--json FILE] [--quick] [--alone] [--tune]`.

Decode attention of one layer. Every format is compared with float64 before it is timed, and nothing
is timed if one is wrong. A tile's share is of the bandwidth of an elementwise copy in the same run.
"""

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import click
import torch
import triton

from bench.kernels import flash
from bench.kernels.clock import copy_bandwidth, microseconds
from bench.kernels.decode import Ours, Shape
from kvarn.format.layout import FORMATS, TILE_TOKENS, TileLayout
from kvarn.kernels.triton.parts import Cut, even_cut, processors

QUICK = (Shape.even(64, 8192), Shape.even(8, 8192), Shape.even(1, 131072))
LARGEST_ERROR = 4e-3
"""Relative: bfloat16 results alone make 1.7e-3."""


def shapes() -> Iterator[Shape]:
    """All shapes of the record."""
    yield from QUICK
    for sequences, context in ((32, 32768), (4, 65536), (256, 2048), (16, 16384), (16, 4096)):
        yield Shape.even(sequences, context)
    for sequences, context in ((1, 1024), (1, 8192), (64, 1024), (256, 1024)):
        yield Shape.even(sequences, context)
    lengths = Random(7)
    yield Shape(tuple(TILE_TOKENS * lengths.randint(2, 128) for _ in range(64)))
    yield Shape.even(64, 8192, group=1)
    yield Shape.even(64, 8192, group=8)
    yield Shape.even(64, 8192, head_dim=64)
    yield Shape.even(64, 8192, kv_heads=4, head_dim=256)


@dataclass(frozen=True)
class Point:
    """A measured step.

    Attributes:
        shape: of the step.
        format: of the cache.
        us: microseconds of attention.
        all_us: of attention, storing and writing the tails.
        parts: that histories were cut into.
        moved_bytes: bytes that attention must read.
        copy_share: of the bandwidth of an elementwise copy.
        vs_bf16: how many times FlashAttention 3 takes on bfloat16; None without it.
        vs_fp8: likewise on fp8.
    """

    shape: str
    format: str
    us: float
    all_us: float
    parts: int
    moved_bytes: int
    copy_share: float
    vs_bf16: float | None
    vs_fp8: float | None


@click.command()
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the points there.")
@click.option("--quick", is_flag=True, help="Three shapes instead of all.")
@click.option("--alone", is_flag=True, help="Without FlashAttention 3.")
@click.option("--tune", is_flag=True, help="Print the best cuts of the three shapes instead.")
@click.option("--format", "names", multiple=True, help="Formats; all quantised ones by default.")
def main(path: Path | None, quick: bool, alone: bool, tune: bool, names: tuple[str, ...]) -> None:
    """Measure decode attention over packed tiles against FlashAttention 3."""
    torch.manual_seed(0)
    names = names or tuple(name for name, each in FORMATS.items() if not each.is_raw)
    chosen = list(QUICK if quick or tune else shapes())
    check(chosen, names)
    if tune:
        for shape in chosen:
            for name in names:
                print_cuts(shape, name)
        return
    copy = copy_bandwidth()
    environment = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "copy_bytes_per_second": round(copy),
    }
    print(environment)
    points: list[Point] = []
    for shape in chosen:
        points += measure(shape, names, copy, alone=alone)
        print_points(points[-len(names) :])
        if path:  # after each shape, so that nothing measured is lost
            record = {**environment, "points": [asdict(point) for point in points]}
            path.write_text(json.dumps(record, indent=1) + "\n")


def check(chosen: list[Shape], names: tuple[str, ...]) -> None:
    """Compare every kernel that will be timed with float64, on uneven lengths.

    Raises:
        click.ClickException: a result is wrong.
    """
    for group, head_dim in sorted({(shape.group, shape.head_dim) for shape in chosen}):
        contexts = tuple(TILE_TOKENS * tiles for tiles in (5, 16, 0, 9))
        for name in names:
            shape = Shape(contexts, kv_heads=2, group=group, head_dim=head_dim)
            error = Ours(shape, FORMATS[name]).error()
            print(f"{name} {shape.name}: relative error {error:.2e}", flush=True)
            if not error < LARGEST_ERROR:
                raise click.ClickException(f"{name} is wrong at {shape.name}: nothing is timed")


def measure(shape: Shape, names: tuple[str, ...], copy: float, *, alone: bool) -> Iterator[Point]:
    """Points of a shape, the rivals' time taken in the same run."""
    bf16, fp8 = (
        None if alone else flash.best(shape, dtype)
        for dtype in (torch.bfloat16, torch.float8_e4m3fn)
    )
    print(f"{shape.name}: FlashAttention 3 bf16 {bf16 or 0:.1f} µs, fp8 {fp8 or 0:.1f} µs")
    for name in names:
        ours = Ours(shape, FORMATS[name])
        us = microseconds(ours.attend())
        yield Point(
            shape=shape.name,
            format=name,
            us=us,
            all_us=microseconds(ours.all()),
            parts=cut_of(shape, name).parts,
            moved_bytes=ours.moved_bytes,
            copy_share=ours.moved_bytes / us * 1e6 / copy,
            vs_bf16=bf16 and bf16 / us,
            vs_fp8=fp8 and fp8 / us,
        )
        del ours
        torch.cuda.empty_cache()


def cut_of(shape: Shape, name: str) -> Cut:
    """The cut that the kernels choose."""
    return even_cut(
        TileLayout(FORMATS[name], shape.head_dim),
        rows=shape.group,
        histories=len(shape.contexts) * shape.kv_heads,
        tiles=(max(shape.lengths) - 1) // TILE_TOKENS,
        processors=processors(torch.device("cuda")),
    )


def print_points(points: list[Point]) -> None:
    """One line for each."""
    for point in points:
        rivals = "".join(
            f"  {times:.2f}× {rival}"
            for rival, times in (("bf16", point.vs_bf16), ("fp8", point.vs_fp8))
            if times
        )
        print(
            f"{point.shape:>20} {point.format} {point.us:8.1f} µs ({point.all_us:.1f} in all, "
            f"{point.parts} parts) {point.copy_share:4.0%} of copy{rivals}",
            flush=True,
        )


def print_cuts(shape: Shape, name: str) -> None:
    """The fastest cuts of a shape, and the one that is chosen."""
    ours, chosen = Ours(shape, FORMATS[name]), cut_of(shape, name)
    tiles = max(shape.contexts) // TILE_TOKENS
    cuts = {
        replace(chosen, parts=parts, warps=warps, stages=stages)
        for parts in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
        if parts <= min(tiles, 4096 // len(shape.contexts) // shape.kv_heads)
        for warps in (1, 2)
        for stages in (1, 2, 3, 5)
    }
    times = {cut: microseconds(ours.attend(cut)) for cut in sorted(cuts | {chosen}, key=repr)}
    print(f"{shape.name} {name}: chosen {times[chosen]:.1f} µs {chosen}")
    for cut in sorted(times, key=lambda cut: times[cut])[:8]:
        print(f"  {times[cut]:8.1f} µs  parts {cut.parts} warps {cut.warps} stages {cut.stages}")


if __name__ == "__main__":
    main()
