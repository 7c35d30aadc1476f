"""What each cache format costs a model that learned something: `python -m bench.quality [--json]`.

Needs the model of `python -m bench.quality.train`. Four minutes on a GPU; on a CPU take `--quick`.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

from bench.formats.__main__ import environment
from bench.formats.data import HEAD_DIM
from bench.formats.method import Method
from bench.formats.plane import contenders
from bench.quality.measure import (
    Material,
    Sizes,
    divergence,
    generate,
    material,
    perplexity,
    recall,
    surprise,
)
from bench.quality.train import trained
from hack.progress import step

QUICK = Sizes(
    sequences=4, context_tokens=2048, haystacks=4, facts=12, generations=1, own_text=False
)
OMITTED = ("plain k4v4", "KVarN as published k4v4")
"""Contenders of the plane that are close to others here."""

Row = dict[str, Any]


@click.command()
@click.option("--model", type=click.Path(path_type=Path), default=None, help="The trained model.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Keep the JSON there.")
@click.option("--quick", is_flag=True, help="Less of everything, for a CPU.")
def main(model: Path | None, as_json: bool, out: Path | None, quick: bool) -> None:
    """Perplexity, needle recall and drift, bf16 against every cache format."""
    folder = trained(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = material(folder, device, QUICK if quick else Sizes())
    rows: list[Row] = []
    for row in measure(given):
        rows.append(row)
        if out:  # after every format, so that a run that is cut short has not been for nothing
            out.write_text(_record(device, given.sizes, rows))
    if as_json:
        print(_record(device, given.sizes, rows), end="")
    else:
        _print(rows)


def measure(given: Material) -> Iterator[Row]:
    """Yield a row for bf16 and for each format."""
    with step("bf16"):
        written = generate(given, None)
        exact: Row = {
            "name": "bf16",
            "bits": 16.0,
            "perplexity": perplexity(given, None),
            "recall": recall(given, None),
            "own_text_perplexity": surprise(given, written),
        }
    yield exact
    for method in (each for each in contenders() if each.name not in OMITTED):
        with step(method.name):
            row = _row(given, method, exact, written)
        yield row


def _record(device: torch.device, sizes: Sizes, rows: list[Row]) -> str:
    record = {**environment(device), "sizes": asdict(sizes), "formats": rows}
    return json.dumps(record, indent=1) + "\n"


def _row(given: Material, method: Method, exact: Row, written: torch.Tensor) -> Row:
    reached = perplexity(given, method)
    row: Row = {
        "name": method.name,
        "bits": method.bits(HEAD_DIM),
        "perplexity": reached,
        "perplexity_percent": 100 * (reached / exact["perplexity"] - 1),
        "recall": recall(given, method),
        **divergence(given, method, written),
    }
    if given.sizes.own_text:
        row["own_text_perplexity"] = surprise(given, generate(given, method))
    return row


def _print(rows: list[Row]) -> None:
    columns = ("format", "bits", "perplexity", "above bf16", "recall", "KL by part", "own text")
    table = Table(*columns)
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['bits']:.3f}",
            f"{row['perplexity']:.4f}",
            f"{row.get('perplexity_percent', 0):+.2f} %",
            f"{row['recall']:.4f}",
            " ".join(f"{nats:.4f}" for nats in row.get("kl_nats", ())),
            " ".join(f"{number:.2f}" for number in row.get("own_text_perplexity", ())),
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
