"""The roofline's constants, read off served steps: `python -m bench.roofline_fit [FILE] [--json]`.

FILE is a record of `bench.serving`. Prints the constants of `kvarn.planner` as they stand beside
those that make the steps' absolute relative errors least, and how large the errors are with either.
It changes nothing. A step is nearly linear in the reciprocals of the shares and in the seconds, so
that a few rounds of weighted least squares find them. Squares alone would follow the odd step that
the engine's process, not the GPU, was slow with.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.planner_serving import NAMES, RECORD
from bench.serving.__main__ import find_model
from bench.serving.record import Record, Run
from bench.serving.scenario import STEPS
from kvarn.planner import FORMATS, Accelerator, ModelShape, read_shape
from kvarn.planner.formats import CacheFormat
from kvarn.planner.roofline import Rates, Roofline

ROUNDS = 30
SURE = 0.01
"""Relative errors up to this have the same weight."""
CLASSES = ("bf16", "fp8", "tiles")
"""Cache formats that have constants of their own; those of tiles share theirs."""

Constants = dict[str, float]
"""By name; shares, and seconds."""


def class_of(cache_format: CacheFormat) -> str:
    """Whose constants a format has."""
    return "tiles" if cache_format.tiled else cache_format.name


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
        line = Roofline(
            shape=self.shape,
            accelerator=self.device,
            cache_format=replace(
                self.cache_format,
                bandwidth_share=lambda _device: constants[f"{own} share"],
                layer_seconds=constants.get(f"{own} seconds", 0.0),
            ),
            rates=Rates(**{name: constants[name] for name in asdict(Rates())}),
        )
        return line.step_seconds(self.sequences, self.length)

    def error(self, constants: Constants) -> float:
        """Relative error of what is predicted."""
        return self.predicted(constants) / self.seconds - 1


def steps(record: Record) -> list[Step]:
    """All measured steps in formats that the planner knows."""
    device = Accelerator.find(record.environment["device"])
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
    formats = {class_of(known): known for known in FORMATS.values()}
    shares = {f"{name} share": formats[name].bandwidth_share(device) for name in CLASSES}
    # Seconds are more than with bf16, which has none by definition.
    seconds = {f"{name} seconds": formats[name].layer_seconds for name in CLASSES[1:]}
    return asdict(Rates()) | shares | seconds


def fitted(measured: Sequence[Step], start: Constants) -> Constants:
    """The constants that make the sum of absolute relative errors least, from a start on."""
    names = list(start)
    unknowns = np.array([_unknown(name, start[name]) for name in names])
    for _ in range(ROUNDS):
        errors = _errors(measured, names, unknowns)
        widths = 1e-4 * np.maximum(np.abs(unknowns), 1e-3)
        beside = [_errors(measured, names, unknowns + step) for step in np.diag(widths)]
        slopes = (np.stack(beside, axis=1) - errors[:, None]) / widths
        weights = np.maximum(np.abs(errors), SURE) ** -0.5
        change, *_ = np.linalg.lstsq(slopes * weights[:, None], errors * weights, rcond=None)
        unknowns = unknowns - change
    return _named(names, unknowns)


def _unknown(name: str, constant: float) -> float:
    """What a step is linear in: a share's reciprocal, or microseconds."""
    return 1 / constant if name.endswith("share") else constant * 1e6


def _named(names: Sequence[str], unknowns: np.ndarray) -> Constants:
    return {
        name: 1 / value if name.endswith("share") else value / 1e6
        for name, value in zip(names, unknowns.tolist(), strict=True)
    }


def _errors(measured: Sequence[Step], names: Sequence[str], unknowns: np.ndarray) -> np.ndarray:
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
@click.argument("file", type=click.Path(exists=True, path_type=Path), default=RECORD)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(file: Path, *, as_json: bool) -> None:
    """Print the constants and the errors."""
    record = Record.read(file)
    measured = steps(record)
    stand = standing(Accelerator.find(record.environment["device"]))
    best = fitted(measured, stand)
    both = {"stand": stand, "fitted": best}
    errors = {name: summary(measured, constants) for name, constants in both.items()}
    if as_json:
        click.echo(json.dumps({"steps": len(measured), "constants": both, "errors": errors}))
    else:
        _print(len(measured), stand, best, errors)


def _print(
    number: int, stand: Constants, best: Constants, errors: dict[str, dict[str, Any]]
) -> None:
    table = Table("constant", "stands", "fitted", title=f"the roofline of {number} steps")
    for name, constant in stand.items():
        form: Callable[[float], str] = (
            "{:.3f}".format if name.endswith("share") else lambda each: f"{each * 1e6:.1f} µs"
        )
        table.add_row(name, form(constant), form(best[name]))
    table.add_section()
    for name in ("median", "rms", "worst"):
        table.add_row(f"{name} error", *(f"{each[name]:+.1%}" for each in errors.values()))
    table.add_row("of", *(each["worst_step"] for each in errors.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
