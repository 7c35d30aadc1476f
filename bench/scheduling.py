"""What a step costs the host, by cache format: `python -m bench.scheduling [MODEL]`; needs no GPU.

vLLM's own engine core, its scheduler and its managers of blocks, plans steps of single tokens and
takes their results; in place of a GPU stands a worker that answers at once, and the layers are the
model's own without weights. Formats take turns step by step, and what counts is the processor's
time, for no machine is quiet.

On a GPU this work goes on beside a step. With many short requests it takes longer than the step
itself, and then it is what a step takes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.serving.__main__ import find_model
from bench.startup import as_folder
from hack.errors import Refusal
from hack.progress import step
from kvarn.format.layout import FORMATS

NAMES = ("auto", *(name for name, each in FORMATS.items() if not each.is_raw))


@click.command(help=__doc__)
@click.argument("model", default="llama-3.1-8b", metavar="[MODEL]")
@click.option(
    "--format", "formats", multiple=True, type=click.Choice(NAMES), help="All, if none is named."
)
@click.option(
    "--sequences",
    type=click.IntRange(1, 1024),
    default=256,
    show_default=True,
    help="Requests at once.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    default=200,
    show_default=True,
    help="The median counts.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def main(*, model: str, formats: Sequence[str], sequences: int, steps: int, as_json: bool) -> None:
    """Measure, and print a table."""
    path = find_model(model)
    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    from bench.host_engine import HostEngine  # noqa: PLC0415  # vLLM reads its environment once

    with as_folder(path) as folder:
        with step("Starting engines"):
            try:
                engines = [HostEngine(folder, each, sequences) for each in formats or NAMES]
            except (OSError, ValueError) as error:
                raise Refusal(f"vLLM does not take {model}: {error}") from error
        with step("Planning steps"):
            seconds = [[engine.step() for engine in engines] for _ in range(steps)]
    rows = [
        {
            "format": engine.cache_format,
            "groups": engine.groups,
            "ms": round(1e3 * median(each), 3),
        }
        for engine, each in zip(engines, zip(*seconds, strict=True), strict=True)
    ]
    if as_json:
        print(json.dumps({"model": model, "sequences": sequences, "formats": rows}))
    else:
        _print(rows, sequences)


def _print(rows: Sequence[Mapping[str, Any]], sequences: int) -> None:
    table = Table("format", "groups of pages", "ms of a step", "of the first")
    for row in rows:
        share = f"{row['ms'] / rows[0]['ms']:.2f}"
        table.add_row(row["format"], str(row["groups"]), f"{row['ms']:.2f}", share)
    table.title = f"{sequences} requests"
    Console().print(table)


if __name__ == "__main__":
    main()
