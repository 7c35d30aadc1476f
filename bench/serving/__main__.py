"""The benchmark: `python -m bench.serving [--quick] [--json FILE]`, with a real vLLM.

Models have the shape of real ones and made-up weights. Each cache format gets an engine in a
process of its own, in which are measured: its cache, steps of decoding by sequences and context,
and workloads at saturation and at half load. FILE is written after every figure; what it already
holds of the same device and versions stays, so that formats may be measured one after the other, or
at once where there are several GPUs: by one command each, with its own CUDA_VISIBLE_DEVICES, to the
same FILE. The status is 1 if a format failed.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.ending import unwind_on_sigterm
from bench.option_types import POSITIVE, FiniteRange
from bench.serving import process, report
from bench.serving.record import BASELINE, Record, Run
from bench.serving.scenario import CELLS, REFERENCE, WORKLOADS, Cell, Scenario, Workload
from bench.startup import as_folder
from hack.errors import Refusal
from hack.progress import console, step

MODELS = {path.stem: path for path in (Path(__file__).parents[1] / "models").glob("*.json")}
DEFAULT_MODELS = ("llama-3.1-8b", "qwen3-8b", "qwen3-32b")
FORMATS = (
    *(BASELINE, "fp8", "kvarn_k4v2_g128", "kvarn_k4v4_g128"),
    *("int4_per_token_head", "turboquant_4bit_nc"),
)
SECONDS, QUICK_SECONDS = 20.0, 8.0
NONE = "none"


def shape_name(model: str) -> str:
    """That of its file; dots belong to names such as llama-3.1-8b."""
    return Path(model).name.removesuffix(".json")


def find_model(name: str) -> Path:
    """The config of a shape, by its name or its path.

    Raises:
        Refusal: there is none.
    """
    path = MODELS.get(name, Path(name))
    if not path.exists():
        raise Refusal(
            f"{name} is no model; take {', '.join(sorted(MODELS))} or the path of a config.json."
        )
    return path


def scenario_of(
    *,
    cells: str | None,
    workloads: Sequence[str],
    seconds: float | None,
    quick: bool,
    prefill: bool,
    engine: Sequence[str],
) -> Scenario:
    """What the options ask for.

    Raises:
        Refusal: with what is wrong with them.
    """
    asked = (cells or NONE).split(",")
    try:
        chosen = [Cell.parse(text) for text in asked if text != NONE]
        served = [Workload.parse(text) for text in workloads if text != NONE]
    except ValueError as error:
        raise Refusal(f"{error}.") from error
    scenario = Scenario(
        cells=chosen if cells else [REFERENCE] if quick else CELLS,
        prefill=prefill,
        workloads=served if workloads else [*WORKLOADS.values()][: 1 if quick else None],
        seconds=seconds or (QUICK_SECONDS if quick else SECONDS),
        engine=dict(_argument(text) for text in engine),
    )
    if not scenario.cells and not scenario.workloads:
        raise Refusal("Nothing is left to measure: name cells or a workload.")
    return scenario


def _argument(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Refusal(f"{text} names no value; write it as in max_num_seqs=64.")
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), value


@click.command(help=__doc__)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Keep the record there.")
@click.option("--model", "models", multiple=True, help="A shape's name or path; all three.")
@click.option("--format", "formats", multiple=True, help="vLLM's --kv-cache-dtype; ours, rivals.")
@click.option(
    "--workload", "workloads", multiple=True, help="burst, documents, chat, IN+OUT or none."
)
@click.option("--cells", help="Sequences x context of decoding, as in 64x8k,8x1k; or none.")
@click.option("--seconds", type=FiniteRange(min=1), help="Of each window. [20; quick: 8]")
@click.option("--quick", is_flag=True, help="One cell, one workload, short windows.")
@click.option("--prefill/--no-prefill", default=True, help="Compute the first cell's prompts.")
@click.option("--engine", multiple=True, help="NAME=VALUE, an argument of vLLM's engine.")
@click.option(
    "--limit",
    type=POSITIVE,
    default=900.0,
    show_default=True,
    help="Seconds of one format at most.",
)
@click.option("--logs", type=click.Path(path_type=Path), help="Folder of what vLLM prints.")
def main(
    *,
    path: Path | None,
    models: Sequence[str],
    formats: Sequence[str],
    limit: float,
    logs: Path | None,
    **options: Any,
) -> None:
    """Measure each model and format, and print the tables."""
    unwind_on_sigterm()
    bench = Bench(
        scenario=scenario_of(**options),
        record=Record.read(path),
        path=path,
        logs=logs or Path(tempfile.mkdtemp(prefix="kvarn-serving-")),
        limit_seconds=limit,
    )
    names = models or DEFAULT_MODELS
    shapes = {shape_name(model): find_model(model) for model in names}
    bench.logs.mkdir(parents=True, exist_ok=True)
    well = True
    for name, config in shapes.items():
        with as_folder(config) as folder:
            for cache_format in formats or FORMATS:
                well &= bench.measure(name, folder, cache_format)
    screen = Console(width=None if sys.stdout.isatty() else 160)
    for table in report.tables(bench.record):
        screen.print(table)
    raise SystemExit(not well)


@dataclass(frozen=True)
class Bench:
    """What does not change from one model and format to the next.

    Attributes:
        scenario: what to measure.
        record: what was measured.
        path: where the record is kept, if anywhere.
        logs: folder of what vLLM prints.
        limit_seconds: of one model and format.
    """

    scenario: Scenario
    record: Record
    path: Path | None
    logs: Path
    limit_seconds: float

    def measure(self, name: str, folder: Path, cache_format: str) -> bool:
        """Add a model and format to the record, piece by piece; whether it got to its end."""
        run = self.record.run(name, cache_format)
        run.pop("failed", None)
        run["asked"] = {"seconds": self.scenario.seconds, "engine": self.scenario.engine}
        log = self.logs / f"{name}-{cache_format}.log"
        if not process.wait_until_free():
            click.echo("The device's memory is in use by others; vLLM may not start.", err=True)
        try:
            with step(f"{name} {cache_format}") as doing:
                for piece in self._pieces(folder, cache_format, log):
                    self.record.add(run, piece)
                    doing.detail = report.line(piece)
                    console.print(f"  {doing.detail}")
                    self._keep(run)
        except process.FailedError as error:
            run["failed"] = {"message": str(error)}
            console.print(f"  {error} ({log})", style="red")
            self._keep(run)
        return "failed" not in run

    def _pieces(self, folder: Path, cache_format: str, log: Path) -> Iterator[dict[str, Any]]:
        return process.measured(
            folder, cache_format, self.scenario, log=log, limit_seconds=self.limit_seconds
        )

    def _keep(self, run: Run) -> None:
        if self.path:
            self.record.keep(self.path, run)


if __name__ == "__main__":
    main()
