"""Planned against real: `python -m bench.planner --records FILE --models DIR [--json]`.

FILE holds one start-up of vLLM per line: settings, GPU, what vLLM printed. DIR holds the models'
`config.json` files as `<org>__<model>.json`. Two classes:

* *arithmetic*: the log gives the memory of the cache; the tokens are predicted from it;
* *settings*: model, GPU, utilisation and batch limits alone; the memory is predicted too.

A record counts in a class when it states what the class needs and the planner knows the model.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from kvarn.planner import FORMATS, Accelerator, ModelShape, PlannerError, read_shape
from kvarn.planner.accelerators import GIB
from kvarn.planner.cache import cache_layout
from kvarn.planner.memory import Batch, overhead
from kvarn.planner.version import EngineVersion

Record = Mapping[str, Any]
SHARES = (1, 5, 10)
WORST = 10
PLAIN = ("auto", "bfloat16", "float16", None)
"""Weights as the model's config describes them; other variants share the name alone."""
VARIANT = re.compile(r"-(instruct|chat|it|hf|thinking|\d{4})(?=-|$)")
"""Endings that tell models of one shape apart."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one record.

    Attributes:
        error: predicted over measured, less 1.
    """

    record: Any
    model: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative error; positive where too much was promised."""
        return self.predicted / self.measured - 1


def load_shapes(folder: Path) -> dict[str, ModelShape]:
    """Shapes by model, the organisation, the case and the variant left aside."""
    shapes: dict[str, ModelShape] = {}
    for path in sorted(folder.glob("*__*.json")):
        try:
            shape = read_shape(path)
        except PlannerError:
            continue
        shapes.setdefault(model_key(path.stem.split("__", 1)[1]), shape)
    return shapes


def model_key(model: str) -> str:
    """The model's name without what does not change its shape."""
    name = model.rsplit("/", 1)[-1].lower().removeprefix("meta-").removesuffix("__quoted")
    return VARIANT.sub("", name)


def arithmetic(record: Record, shape: ModelShape) -> Iterable[Row]:
    """Tokens from the memory that the log gives."""
    available, tokens = record["available_kv_gib"], record["kv_tokens"]
    if available and tokens and record["error"] is None:
        yield _row(record, _tokens(record, shape, available * GIB), tokens)


def settings(record: Record, shape: ModelShape) -> Iterable[Row]:
    """Memory for the cache from the settings alone, in GiB."""
    available, utilization = record["available_kv_gib"], record["gpu_memory_utilization"]
    device, plain = find_device(record), record["weight_dtype"] in PLAIN
    stated = available and utilization and record["vllm_version"] and plain
    if not (stated and device and record["error"] is None):
        return
    version = EngineVersion.parse(record["vllm_version"])
    batch = batch_limits(record, device)
    lines = overhead(shape, device, batch, version)
    taken = sum(
        line.size_bytes
        for line in lines
        if not (line.name == "cudaGraphs" and record["enforce_eager"])
    )
    predicted = (utilization * device.memory_bytes - taken) / GIB
    yield _row(record, predicted, available)


def batch_limits(record: Record, device: Accelerator | None) -> Batch:
    """The limits of the record, or vLLM's defaults for a server on this device."""
    large = device is not None and device.memory_bytes >= 70 * GIB and "A100" not in device.product
    return Batch(
        max_sequences=record["max_num_seqs"] or (1024 if large else 256),
        max_batched_tokens=record["max_num_batched_tokens"] or (8192 if large else 2048),
    )


def find_device(record: Record) -> Accelerator | None:
    """The record's devices; None where the GPU is not stated, or unknown."""
    total = record.get("device_total_gib")
    memory_bytes = round(total * GIB) if total else None
    try:
        return Accelerator.find(
            record["gpu"] or "", count=record["tp"] or 1, memory_bytes=memory_bytes
        )
    except PlannerError:
        return None


def _tokens(record: Record, shape: ModelShape, cache_bytes: float) -> float:
    """What vLLM reports; without a context length it is the blocks' capacity."""
    device = Accelerator.find("H100", count=record["tp"] or 1)
    quantised = "fp8" in (record["kv_cache_dtype"] or "")
    layout = cache_layout(shape, device, FORMATS["fp8" if quantised else "bf16"])
    tokens = record["max_model_len"] or 16
    batch = batch_limits(record, device)
    blocks = layout.request_blocks(tokens, in_flight_tokens=batch.max_batched_tokens)
    return layout.blocks(int(cache_bytes)) / blocks * tokens


def _row(record: Record, predicted: float, measured: float) -> Row:
    return Row(record["id"], record["model"], predicted, measured)


CLASSES: dict[str, Callable[[Record, ModelShape], Iterable[Row]]] = {
    "arithmetic": arithmetic,
    "settings": settings,
}


def measure(records: Iterable[Record], shapes: Mapping[str, ModelShape]) -> dict[str, list[Row]]:
    """Rows of each class, the records that the planner knows the model of."""
    known = [
        (record, shape)
        for record in records
        if (shape := shapes.get(model_key(record["model"]))) and (record["pp"] or 1) == 1
    ]
    return {
        name: [row for record, shape in known for row in rows(record, shape)]
        for name, rows in CLASSES.items()
    }


def summary(rows: list[Row]) -> dict[str, Any]:
    """Shares within 1, 5 and 10 %, the median error and the worst rows."""
    errors = [abs(row.error) for row in rows]
    worst = sorted(rows, key=lambda row: -abs(row.error))[:WORST]
    return {
        "records": len(rows),
        **{
            f"within_{percent}": round(
                sum(error <= percent / 100 for error in errors) / max(len(errors), 1), 3
            )
            for percent in SHARES
        },
        "median_error": round(median(errors), 4) if errors else None,
        "worst": [
            {
                "id": row.record,
                "model": row.model,
                "predicted": round(row.predicted, 2),
                "measured": row.measured,
                "error": round(row.error, 4),
            }
            for row in worst
        ],
    }


@click.command()
@click.option("--records", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--models", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(records: Path, models: Path, *, as_json: bool) -> None:
    """Compare the planner with real start-ups."""
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    report = {name: summary(rows) for name, rows in measure(lines, load_shapes(models)).items()}
    if as_json:
        click.echo(json.dumps({"total": len(lines), **report}, indent=2))
        return
    for name, found in report.items():
        click.echo(f"{name}: {found['records']} of {len(lines)} records")
        shares = ", ".join(f"{found[f'within_{p}']:.0%} within {p} %" for p in SHARES)
        click.echo(f"  {shares}, median {found['median_error']:.2%}")
        for row in found["worst"]:
            click.echo(
                "  {id:>4} {model:45} {predicted:>12} {measured:>12} {error:+.1%}".format(**row)
            )


if __name__ == "__main__":
    main()
