"""The simulation against a GPU: `python -m bench.autoscaler.calibrate_gpu [FILE] [--json]`.

FILE is a record of `bench.serving`. Every cell and workload in it is simulated with the planner's
roofline, of whose constants those of decoding are fitted to the cells of this very record; nothing
is fitted to prompts, to throughput or to latencies.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.autoscaler import roofline, serving
from bench.autoscaler.calibrate import Figure
from bench.autoscaler.roofline import Server
from bench.planner_serving import NAMES, RECORD
from bench.serving.__main__ import find_model
from bench.serving.record import Record, Run
from bench.serving.scenario import Cell, Workload
from kvarn.planner import read_shape

MANY = 10
"""First tokens in a window from which its percentiles say something."""

Named = tuple[str, Figure]
"""(quantity, a figure of it)"""


def compare(record: Record) -> dict[str, list[Figure]]:
    """By quantity, the figures of every engine whose format the planner knows."""
    found: dict[str, list[Figure]] = {}
    for run in record.runs:
        if run["format"] in NAMES and "engine" in run:
            for quantity, figure in _figures(run, _server(run, record.environment["device"])):
                found.setdefault(quantity, []).append(figure)
    return found


def _server(run: Run, device: str) -> Server:
    """The engine of a run, with the limits that it had."""
    engine = run["engine"]
    shape, cache_format = read_shape(find_model(run["model"])), NAMES[run["format"]]
    return replace(
        roofline.server(device, shape=shape, cache_format=cache_format),
        cache_tokens=engine["cache_tokens"],
        max_model_tokens=engine["max_model_len"],
        max_sequences=engine["max_num_seqs"],
        max_batched_tokens=engine["max_num_batched_tokens"],
        block_tokens=engine["block_tokens"],
        plans_ahead=engine["async_scheduling"],
    )


def _figures(run: Run, server: Server) -> Iterator[Named]:
    about = f"{run['model']}, {NAMES[run['format']]}"
    for cell in run["cells"]:
        if "ms" in cell:
            yield from _cell(cell, server, about)
    for workload in run["workloads"]:
        if "skipped" not in workload:
            yield from _workload(workload, server, about, seconds=run["asked"]["seconds"])


def _cell(measured: Mapping[str, Any], server: Server, about: str) -> Iterator[Named]:
    cell = Cell(measured["sequences"], measured["context"])
    name = f"{about}, {cell.name}"
    step = 1e3 * serving.step_seconds(server, cell)
    yield "step of decoding, ms", Figure(name, measured["ms"], step)
    if rate := measured.get("prefill_tokens_per_second"):
        simulated = serving.prefill_rate(server, cell)
        yield "prompts alone, tokens/s", Figure(name, rate, simulated)


def _workload(
    measured: Mapping[str, Any], server: Server, about: str, *, seconds: float
) -> Iterator[Named]:
    workload = Workload(measured["name"], measured["input_tokens"], measured["output_tokens"])
    name = f"{about}, {workload.name}"
    full, half = measured["saturated"], measured["half_load"]
    made = serving.saturated(server, workload, clients=full["clients"], seconds=seconds)
    output, prompt = full["output_tokens_per_second"], full["prompt_tokens_per_second"]
    yield "saturated: output, tokens/s", Figure(name, output, made.rates.output)
    if prompt:
        yield "saturated: prompts, tokens/s", Figure(name, prompt, made.rates.prompts)
    yield "saturated: cache in use", Figure(name, full["cache_usage"], made.usage)
    made = serving.half_load(server, workload, clients=half["clients"], seconds=seconds)
    gaps, firsts = half["inter_token_ms"], half["first_token_ms"]
    for percent in (50, 99):
        share, key = percent / 100, f"p{percent}"
        simulated = 1e3 * made.gap_quantile(share)
        yield f"half load: between tokens, {key}, ms", Figure(name, gaps[key], simulated)
        if firsts and made.ttft:
            figure = Figure(name, firsts[key], 1e3 * made.ttft_quantile(share))
            yield f"half load: first token, {key}, ms", figure
            if firsts["count"] >= MANY:
                yield f"half load: first token, {key}, ms, of {MANY} or more", figure


@click.command(help=__doc__)
@click.argument("file", type=click.Path(exists=True, path_type=Path), default=RECORD)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(file: Path, *, as_json: bool) -> None:
    """Print the error of each quantity."""
    found = compare(Record.read(file))
    if as_json:
        report = {quantity: _report(figures) for quantity, figures in found.items()}
        click.echo(json.dumps(report, indent=1))
    else:
        Console().print(_table(found))


def _report(figures: Sequence[Figure]) -> dict[str, Any]:
    worst = _worst(figures)
    return {
        "figures": len(figures),
        "median_error": round(_median(figures), 4),
        "median_absolute_error": round(_median(figures, of=abs), 4),
        "worst_error": round(worst.error, 4),
        "worst": worst.name,
        "all": [
            {
                "name": figure.name,
                "measured": figure.measured,
                "simulated": round(figure.simulated, 3),
                "error": round(figure.error, 4),
            }
            for figure in figures
        ],
    }


def _table(found: Mapping[str, Sequence[Figure]]) -> Table:
    table = Table("quantity", "figures", "median error", "median, absolute", "worst", "where")
    for quantity, figures in found.items():
        worst = _worst(figures)
        table.add_row(
            quantity,
            str(len(figures)),
            f"{_median(figures):+.1%}",
            f"{_median(figures, of=abs):.1%}",
            f"{worst.error:+.0%}",
            worst.name,
        )
    return table


def _median(figures: Sequence[Figure], *, of: Callable[[float], float] = float) -> float:
    return median(of(figure.error) for figure in figures)


def _worst(figures: Sequence[Figure]) -> Figure:
    return max(figures, key=lambda figure: abs(figure.error))


if __name__ == "__main__":
    main()
