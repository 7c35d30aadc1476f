"""Planned against served: `python -m bench.planner_serving [FILE…] [--json]`.

A FILE is a record of `bench.serving`, one for each machine, the newest first. Of each of its
engines, the tokens of the cache beside those of a plan with the same limits. In each cell, the
format that `auto` chooses for such a load beside the fastest one that was measured on the same
machine.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.planner_refusal import refusals
from bench.serving.__main__ import find_model
from bench.serving.record import Record, Run, fastest
from hack.errors import Refusal
from kvarn.planner import FORMATS, Accelerator, Limits, Workload, plan, read_shape

RESULTS = Path(__file__).with_name("results")
RECORD = RESULTS / "serving-h200.json"
RECORDS = (
    *(RESULTS / f"serving-h200-{host}.json" for host in ("fifth", "fourth")),
    RECORD,
    *(RESULTS / f"serving-h200-{host}.json" for host in ("second", "first")),
)
"""All of an H200, the newest first."""
SLOWER = 1.02
"""A choice may take so many times as long as the best."""
NAMES = {known.kv_cache_dtype: known.name for known in FORMATS.values()}
"""The planner's formats by what vLLM calls them."""


def gpu_of(record: Record) -> Accelerator:
    """What a record was measured on.

    Raises:
        Refusal: it does not say, as where nothing has started.
        AcceleratorError: the planner does not know it.
    """
    if product := record.environment.get("device"):
        return Accelerator.find(product)
    raise Refusal("A record names no device; give one in which something was measured.")


def capacities(record: Record) -> Iterator[dict[str, Any]]:
    """Planned and measured tokens of every engine whose format the planner knows."""
    gpu = gpu_of(record)
    for run in record.runs:
        engine, name = run.get("engine"), NAMES.get(run["format"])
        if engine and name:
            planned = _planned(run, gpu, name)
            yield {
                "model": run["model"],
                "format": name,
                "planned": planned,
                "measured": engine["cache_tokens"],
                "error": round(planned / engine["cache_tokens"] - 1, 4),
            }


def _planned(run: Run, gpu: Accelerator, cache_format: str) -> int:
    engine = run["engine"]
    limits = Limits(
        max_model_tokens=engine["max_model_len"],
        max_sequences=engine["max_num_seqs"],
        max_batched_tokens=engine["max_num_batched_tokens"],
        utilization_percent=round(100 * engine["gpu_memory_utilization"]),
    )
    shape = read_shape(find_model(run["model"]))
    return plan(shape, gpu, limits=limits, cache_format=cache_format).cache_tokens


def choices(records: Sequence[Record]) -> list[dict[str, Any]]:
    """What `auto` chooses in every cell where something was measured.

    Of several machines, the one counts that tried the choice beside most other formats, and of
    those the first.
    """
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    for cell in (cell for record in records for cell in _choices(record)):
        place = (cell["model"], cell["sequences"], cell["context"])
        found[place] = max(found.get(place, cell), cell, key=_judged)
    return list(found.values())


def _judged(cell: dict[str, Any]) -> tuple[bool, int]:
    return cell["times"] is not None, cell["tried"]


def _choices(record: Record) -> Iterator[dict[str, Any]]:
    """Those of one machine's record.

    A load like the cell has as many requests at once, whose context is the cell's on average: they
    end with a quarter more tokens and begin with a quarter less.
    """
    gpu = gpu_of(record)
    for cell in fastest(record.runs):
        ms = {NAMES[name]: each for name, each in cell["ms"].items() if name in NAMES}
        if not ms:
            continue
        context = cell["context"]
        load = Workload(
            prompt_tokens=3 * context // 4,
            output_tokens=context // 2,
            concurrency=cell["sequences"],
        )
        chosen = plan(read_shape(find_model(cell["model"])), gpu, workload=load).format
        tried = _tried(record.runs, cell)
        yield {
            "model": cell["model"],
            "sequences": cell["sequences"],
            "context": context,
            "chosen": chosen,
            "fastest": min(ms, key=lambda name: ms[name]),
            "tried": tried,
            "times": round(ms[chosen] / min(ms.values()), 3)
            if chosen in ms and tried > 1
            else None,
        }


def _tried(runs: Sequence[Run], place: dict[str, Any]) -> int:
    """The planner's formats in which a cell was to be measured, also where it did not fit."""
    return sum(
        run["model"] == place["model"]
        and run["format"] in NAMES
        and (cell["sequences"], cell["context"]) == (place["sequences"], place["context"])
        for run in runs
        for cell in run["cells"]
    )


@click.command(help=__doc__)
@click.argument("files", type=click.Path(exists=True, path_type=Path), nargs=-1, metavar="[FILE…]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@refusals()
def main(files: Sequence[Path], *, as_json: bool) -> None:
    """Print both tables; the status is 1 if a choice is too slow or was not measured."""
    records = [Record.read(file) for file in files or RECORDS]
    engines = [engine for record in records for engine in capacities(record)]
    cells = choices(records)
    if as_json:
        click.echo(json.dumps({"capacities": engines, "choices": cells}, indent=1))
    else:
        _print(engines, cells)
    raise SystemExit(not all(cell["times"] and cell["times"] <= SLOWER for cell in cells))


def _print(engines: list[dict[str, Any]], cells: list[dict[str, Any]]) -> None:
    screen = Console()
    table = Table("model", "format", "planned", "measured", "error", title="tokens of cache")
    for row in engines:
        tokens = (f"{row[name]:,}" for name in ("planned", "measured"))
        table.add_row(row["model"], row["format"], *tokens, f"{row['error']:+.2%}")
    screen.print(table)
    table = Table("model", "sequences", "context", "auto", "fastest", "×", title="a step's format")
    for row in cells:
        load = (str(row["sequences"]), f"{row['context']:,}")
        times = "not measured" if row["times"] is None else f"{row['times']:.3f}"
        table.add_row(row["model"], *load, row["chosen"], row["fastest"], times)
    screen.print(table)


if __name__ == "__main__":
    main()
