"""The benchmark: `python -m bench.kernels [--json FILE] [--csv FILE] [--svg FILE]`.

One layer of a step: attention of decode steps, a layer's whole work on prompts, and the store, in
our formats; beside them, in the same run, FlashAttention 3 on bfloat16 and fp8 and vLLM's two 4-bit
formats. What is wrong in the gate is not timed. Times are medians of CUDA graph replays; every call
of a graph has pages of its own, in no order, of more memory than the L2 holds.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click
import torch

from bench.kernels import attention, gate, plot, record, shape, store, tune
from bench.kernels.attention import RIVALS
from bench.kernels.clock import copy_bandwidth
from bench.kernels.implementation import Choice, chosen
from bench.kernels.rival import Rival
from bench.kernels.shape import QUICK, Shape, Stage
from kvarn.format.layout import FORMATS

STAGES: tuple[Stage, ...] = ("decode", "prefill", "store")
QUANTISED = tuple(name for name, each in FORMATS.items() if not each.is_raw)


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        attention: steps whose attention is measured: of decoding, and of prompts.
        stores: steps whose store is.
        names: of our formats.
        kernels: the implementation of our attention.
        rivals: that are measured beside it.
    """

    attention: Sequence[Shape]
    stores: Sequence[Shape]
    names: Sequence[str]
    kernels: Choice
    rivals: Sequence[type[Rival]]

    @classmethod
    def of(
        cls,
        only: Sequence[str],
        size: str,
        *,
        names: Sequence[str],
        kernels: Choice,
        rivals: Sequence[type[Rival]] = (),
    ) -> "Plan":
        """The shapes of some stages; `size` is quick, record or sweep."""
        shapes: Mapping[str, list[Shape]] = {
            "decode": shape.sweep_shapes() if size == "sweep" else shape.decode_shapes(),
            "prefill": shape.prefill_shapes(),
            "store": shape.store_shapes(),
        }
        if size == "quick":
            prompt = Shape.prompt(2048, after=8192)
            shapes = {"decode": list(QUICK), "prefill": [prompt], "store": [QUICK[0], prompt]}
        wanted = {stage: shapes[stage] if stage in only else [] for stage in STAGES}
        steps = [*wanted["decode"], *wanted["prefill"]]
        return cls(steps, wanted["store"], names, kernels, rivals)

    def refused(self) -> dict[tuple[str, gate.Place], str]:
        """Why rivals do not run, by name and place; the gate, too."""
        checks = gate.checks(
            self.attention, self.stores, self.names, kernels=self.kernels, rivals=self.rivals
        )
        return gate.passed(checks)


@dataclass(frozen=True)
class Output:
    """Where results go.

    Attributes:
        json: the record.
        csv: its points as a table.
        svg: its picture.
    """

    json: Path | None
    csv: Path | None
    svg: Path | None

    def write(self, surroundings: Mapping[str, object], points: Sequence[record.Point]) -> None:
        """Write what is asked for."""
        if self.json:
            record.save(self.json, surroundings, points)
        if self.csv:
            record.save_csv(self.csv, points)
        if self.svg:
            self.svg.write_text(plot.svg(points, device=str(surroundings["device"])))


@click.command()
@click.option("--only", type=click.Choice(STAGES), multiple=True, help="Some stages only.")
@click.option("--quick", "size", flag_value="quick", help="A few shapes; a minute and a half.")
@click.option("--sweep", "size", flag_value="sweep", help="Every context and batch as well.")
@click.option("--format", "names", multiple=True, type=click.Choice(QUANTISED), help="Of ours.")
@click.option(
    "--kernels",
    type=click.Choice(get_args(Choice)),
    default="auto",
    help="The implementation of our attention.",
)
@click.option("--alone", is_flag=True, help="Without rivals.")
@click.option("--tune", "tuning", is_flag=True, help="Print the best cuts of three shapes instead.")
@click.option("--plot-from", type=click.Path(exists=True, path_type=Path), help="A record to draw.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path), help="Write the record there."
)
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write a table there.")
@click.option("--svg", "svg_path", type=click.Path(path_type=Path), help="Draw the speed-up there.")
def main(
    *,
    only: tuple[str, ...],
    size: str | None,
    names: tuple[str, ...],
    kernels: Choice,
    alone: bool,
    tuning: bool,
    plot_from: Path | None,
    json_path: Path | None,
    csv_path: Path | None,
    svg_path: Path | None,
) -> None:
    """Measure attention and store of our formats against the rivals that vLLM ships."""
    output = Output(json_path, csv_path, svg_path)
    if plot_from:
        _redraw(plot_from, output)
        return
    if not torch.cuda.is_available():
        raise click.ClickException("there is no CUDA GPU here; --plot-from FILE draws a record")
    plan = Plan.of(
        only or STAGES,
        size or "record",
        names=names or QUANTISED,
        kernels=kernels,
        rivals=() if alone or tuning else RIVALS,
    )
    if tuning:
        Plan.of(["decode"], "quick", names=plan.names, kernels="triton").refused()
        tune.print_cuts(QUICK, plan.names)
    else:
        _measure(plan, output)


def _measure(plan: Plan, output: Output) -> None:
    begin, implementation = time.monotonic(), chosen(plan.kernels)
    refused = plan.refused()
    copy = copy_bandwidth()
    surroundings = record.environment(copy, plan.kernels)
    print(surroundings)
    points: list[record.Point] = []
    for step in plan.attention:
        rivals = {each: refused.get((each.name, gate.place(step))) for each in plan.rivals}
        found = attention.measure(step, plan.names, implementation, copy=copy, rivals=rivals)
        _take(points, found, begin)
        output.write(surroundings, points)  # after each shape, so that nothing is lost
    for step in plan.stores:
        _take(points, store.measure(step, plan.names, implementation, copy=copy), begin)
        output.write(surroundings, points)


def _take(points: list[record.Point], found: Iterable[record.Point], begin: float) -> None:
    """Add points, and tell of each."""
    for each in found:
        points.append(each)
        print(f"{time.monotonic() - begin:4.0f} s {record.line(each)}", flush=True)


def _redraw(path: Path, output: Output) -> None:
    try:
        surroundings, points = record.load(path)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    output.write(surroundings, points)


if __name__ == "__main__":
    main()
