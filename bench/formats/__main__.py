"""The study of formats: `python -m bench.formats [--synthetic] [--json] [--svg FILE]`.

Needs the model of `python -m bench.quality.train`, but for synthetic data. On a CPU it takes a
quarter of an hour, on a GPU seconds.
"""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from bench.formats import plane, plot
from bench.formats.data import captured_sets, synthetic_sets
from bench.quality.train import trained


@click.command()
@click.option("--model", type=click.Path(path_type=Path), default=None, help="The trained model.")
@click.option("--synthetic", is_flag=True, help="Only the data that need no model.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--svg", type=click.Path(path_type=Path), default=None, help="Draw the plane there.")
def main(*, model: Path | None, synthetic: bool, as_json: bool, svg: Path | None) -> None:
    """Place every cache format on the plane of attention-output error against stored bits."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    captured = {} if synthetic else captured_sets(trained(model), device)
    data = {**captured, **synthetic_sets(device)}
    tables = {"the plane": plane.place(plane.contenders(), data)}
    for title, methods in plane.ablations().items():
        tables[title] = plane.place(methods, data)
    if svg:
        svg.write_text(plot.svg(tables["the plane"]))
    if as_json:
        print(json.dumps({**environment(device), **_plain(tables)}, indent=1))
        return
    for title, points in tables.items():
        _print(title, points)


def environment(device: torch.device) -> dict[str, str]:
    """What the figures were measured with."""
    cpu = platform.processor() or platform.machine()
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else cpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _plain(tables: dict[str, list[plane.Point]]) -> dict[str, object]:
    return {title: [asdict(point) for point in points] for title, points in tables.items()}


def _print(title: str, points: Sequence[plane.Point]) -> None:
    table = Table("format", "bits", *points[0].errors, title=f"{title}: output error")
    for point in points:
        errors = (f"{error:.4f}" for error in point.errors.values())
        table.add_row(point.name, f"{point.bits:.4f}", *errors)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
