"""The roofline's constants, read off served steps: `python -m bench.roofline_fit [FILE] [--json]`.

FILE is a record of `bench.serving`. Prints the constants of `kvarn.planner` as they stand beside
those that make the steps' absolute relative errors least, and how large the errors are with either.
Where the steps cannot tell the constants apart, those that stand are tested, and none are fitted.
It changes nothing. A step is nearly linear in the reciprocals of the shares and in the seconds, so
that a few rounds of weighted least squares find them. Squares alone would follow the odd step that
the engine's process, not the GPU, was slow with.

No server was measured with tiles of three bits. How much slower than others they are read is fitted
to what kernels take alone (`bench.kernels`), whatever FILE is.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.planner_refusal import refusals
from bench.planner_serving import NAMES, RECORD, RESULTS, gpu_of
from bench.serving.__main__ import find_model
from bench.serving.record import Record, Run
from bench.serving.scenario import STEPS
from hack.errors import Refusal
from kvarn.planner import FORMATS, Accelerator, ModelShape, read_shape
from kvarn.planner.formats import (
    TILE_LEAD_SECONDS,
    TILE_PACES,
    TILE_SECONDS,
    TILE_SHARE,
    CacheFormat,
)
from kvarn.planner.roofline import Rates, Roofline

ROUNDS = 30
SURE = 0.01
"""Relative errors up to this have the same weight."""
ALIKE = 1e-6
"""Part of the others' effect below which a constant, or a sum of some, has none."""
CLASSES = {"bf16": "bf16", "fp8": "fp8", "tiles": "kvarn_k4v2_g128"}
"""Cache formats with constants of their own, by one of them; those of tiles share theirs."""
TILES = tuple(name for name, known in FORMATS.items() if known.tiled)
KERNELS = RESULTS / "kernels-h200.json"
HEAD_DIM = 128
LARGE_BYTES = 200 * 10**6
"""Layers that are read for so long that their latencies hardly matter."""

Constants = dict[str, float]
"""By name; shares, and seconds."""


class Measured(Protocol):
    """Something that took a time."""

    def error(self, constants: Constants) -> float:
        """Relative error of what is predicted."""


def class_of(cache_format: CacheFormat) -> str:
    """Whose constants a format has."""
    return "tiles" if cache_format.tiled else cache_format.name


def pace_of(cache_format: CacheFormat) -> float:
    """Of its class's share, what a format reaches."""
    return TILE_PACES.get(cache_format.name, 1.0)


@dataclass(frozen=True, slots=True)
class Step:
    """A measured step.

    Attributes:
        sequences: that it decodes.
        length: tokens of each, on average over the cell's steps.
        seconds: that it took.
    """

    model: str
    shape: ModelShape
    device: Accelerator
    cache_format: CacheFormat
    sequences: int
    length: int
    seconds: float

    def predicted(self, constants: Constants) -> float:
        """Seconds by the roofline with these constants."""
        own = class_of(self.cache_format)
        share = pace_of(self.cache_format) * constants[f"{own} share"]
        line = Roofline(
            shape=self.shape,
            accelerator=self.device,
            cache_format=replace(
                self.cache_format,
                bandwidth_share=lambda _device: share,
                layer_seconds=constants.get(f"{own} seconds", 0.0),
                lead_seconds=constants.get(f"{own} lead", 0.0),
            ),
            rates=Rates(**{name: constants[name] for name in asdict(Rates())}),
        )
        return line.step_seconds(self.sequences, self.length)

    def error(self, constants: Constants) -> float:
        """Relative error of what is predicted."""
        return self.predicted(constants) / self.seconds - 1


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's attention in a step of decoding, measured alone."""

    cache_format: str
    moved_bytes: int
    seconds: float
    bandwidth_bytes: int

    def error(self, constants: Constants) -> float:
        """Relative error of a time that is the same for all tiles, and one for each byte."""
        own = self.cache_format if self.cache_format in TILE_PACES else "tiles"
        moving = self.moved_bytes / (constants[f"{own} share"] * self.bandwidth_bytes)
        return (constants["layer seconds"] + moving) / self.seconds - 1


def steps(record: Record) -> list[Step]:
    """All measured steps in formats that the planner knows."""
    device = gpu_of(record)
    return [step for run in record.runs if run["format"] in NAMES for step in _steps(run, device)]


def _steps(run: Run, device: Accelerator) -> Iterator[Step]:
    shape, cache_format = read_shape(find_model(run["model"])), FORMATS[NAMES[run["format"]]]
    for cell in run["cells"]:
        if "ms" in cell:
            length = cell["context"] + STEPS // 2
            about = (run["model"], shape, device, cache_format, cell["sequences"], length)
            yield Step(*about, cell["ms"] / 1e3)


def standing(device: Accelerator) -> Constants:
    """The constants as they stand."""
    formats = {name: FORMATS[known] for name, known in CLASSES.items()}
    shares = {f"{name} share": known.bandwidth_share(device) for name, known in formats.items()}
    seconds = {f"{name} seconds": known.layer_seconds for name, known in formats.items()}
    del seconds["bf16 seconds"]  # those of others are what they take more than it
    return asdict(Rates()) | shares | seconds | {"tiles lead": TILE_LEAD_SECONDS}


def paces(file: Path = KERNELS) -> Constants:
    """Of the share of tiles, what kernels reach with tiles of three bits, by their record."""
    record: Mapping[str, Any] = json.loads(file.read_text())
    bandwidth_bytes = Accelerator.find(record["device"]).bandwidth_bytes
    layers = [
        Layer(point["format"], point["moved_bytes"], point["us"] / 1e6, bandwidth_bytes)
        for point in record["points"]
        if point["stage"] == "decode"
        and point["head_dim"] == HEAD_DIM
        and point["moved_bytes"] > LARGE_BYTES
        and point["format"] in TILES
    ]
    shares = {f"{name} share": TILE_SHARE for name in ("tiles", *TILE_PACES)}
    found = fitted(layers, {"layer seconds": 10 * TILE_SECONDS, **shares})
    return {name: found[f"{name} share"] / found["tiles share"] for name in TILE_PACES}


def fitted(measured: Sequence[Measured], start: Constants) -> Constants:
    """The constants that make the sum of absolute relative errors least, from a start on."""
    names = list(start)
    unknowns = np.array([_unknown(name, start[name]) for name in names])
    for _ in range(ROUNDS):
        errors, slopes = _errors(measured, names, unknowns), _slopes(measured, names, unknowns)
        weights = np.maximum(np.abs(errors), SURE) ** -0.5
        change, *_ = np.linalg.lstsq(slopes * weights[:, None], errors * weights, rcond=None)
        unknowns = unknowns - change
    return _named(names, unknowns)


def tell_apart(measured: Sequence[Measured], constants: Constants) -> bool:
    """Whether each constant, and each sum of some, matters to what is predicted."""
    names = list(constants)
    unknowns = np.array([_unknown(name, constants[name]) for name in names])
    effects = np.linalg.svd(_slopes(measured, names, unknowns) * unknowns, compute_uv=False)
    return len(measured) >= len(names) and bool(effects[-1] > ALIKE * effects[0])


def _slopes(measured: Sequence[Measured], names: Sequence[str], unknowns: np.ndarray) -> np.ndarray:
    """What each unknown changes in the errors."""
    widths = 1e-4 * np.maximum(np.abs(unknowns), 1e-3)
    errors = _errors(measured, names, unknowns)
    beside = [_errors(measured, names, unknowns + step) for step in np.diag(widths)]
    return np.asarray((np.stack(beside, axis=1) - errors[:, None]) / widths)


def _unknown(name: str, constant: float) -> float:
    """What a step is linear in: a share's reciprocal, or microseconds."""
    return 1 / constant if name.endswith("share") else constant * 1e6


def _named(names: Sequence[str], unknowns: np.ndarray) -> Constants:
    return {
        name: 1 / value if name.endswith("share") else value / 1e6
        for name, value in zip(names, unknowns.tolist(), strict=True)
    }


def _errors(measured: Sequence[Measured], names: Sequence[str], unknowns: np.ndarray) -> np.ndarray:
    constants = _named(names, unknowns)
    return np.array([step.error(constants) for step in measured])


def summary(measured: Sequence[Step], constants: Constants) -> dict[str, Any]:
    """How large the relative errors are, and whose is the largest."""
    errors = [step.error(constants) for step in measured]
    error, worst = max(zip(errors, measured, strict=True), key=lambda each: abs(each[0]))
    return {
        "median": median(map(abs, errors)),
        "rms": float(np.sqrt(np.mean(np.square(errors)))),
        "worst": error,
        "worst_step": f"{worst.model} {worst.cache_format.name} "
        f"{worst.sequences}x{worst.length - STEPS // 2}",
    }


@click.command(help=__doc__)
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=RECORD
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@refusals()
def main(file: Path, *, as_json: bool) -> None:
    """Print the constants and the errors."""
    record = Record.read(file)
    measured = steps(record)
    if not measured:
        raise Refusal(f"{file} has no steps in {', '.join(NAMES)}; give a record with some.")
    both = {"stand": standing(gpu_of(record))}
    if tell_apart(measured, both["stand"]):
        both["fitted"] = fitted(measured, both["stand"])
    else:
        words = f"{file} lacks steps that tell the constants apart, so none are fitted to it; "
        click.echo(f"{words}give a record of {', '.join(CLASSES)}, short and long.", err=True)
    errors = {name: summary(measured, constants) for name, constants in both.items()}
    tiles = {"stand": dict(TILE_PACES), "fitted": paces()}
    if as_json:
        report = {"steps": len(measured), "constants": both, "errors": errors, "paces": tiles}
        click.echo(json.dumps(report))
    else:
        _print(len(measured), both, errors)
        _print_paces(tiles)


def _print(
    number: int, constants: Mapping[str, Constants], errors: Mapping[str, dict[str, Any]]
) -> None:
    table = Table("constant", *constants, title=f"the roofline of {number} steps")
    for name in constants["stand"]:
        form: Callable[[float], str] = (
            "{:.3f}".format if name.endswith("share") else lambda each: f"{each * 1e6:.1f} µs"
        )
        table.add_row(name, *(form(each[name]) for each in constants.values()))
    table.add_section()
    for name in ("median", "rms", "worst"):
        table.add_row(f"{name} error", *(f"{each[name]:+.1%}" for each in errors.values()))
    table.add_row("of", *(each["worst_step"] for each in errors.values()))
    Console().print(table)


def _print_paces(tiles: Mapping[str, Constants]) -> None:
    table = Table("of the tiles share", *tiles, title="tiles of three bits, kernels alone")
    for name in TILE_PACES:
        table.add_row(name, *(f"{each[name]:.3f}" for each in tiles.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
