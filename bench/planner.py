"""Planned against real: `python -m bench.planner --records FILE --models DIR [--json]`.

FILE holds one start-up of vLLM per line (see `bench.planner_records`), DIR the models'
`config.json` files as `<org>__<model>.json`. The classes, each over the records that state what it
needs, for the planner and for the formulas of other sizers (`bench.planner_rivals`):

* *cache arithmetic*: the log gives the memory of the cache; the tokens are predicted from it;
* *settings, memory*: model, GPU, utilisation, batch limits and version alone give the memory;
* *settings, tokens*: and from that memory the tokens;
* *failures*: which starts vLLM refuses.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench.planner_records import Record, Start, load, load_configs, read_start
from bench.planner_refusal import refusals
from bench.planner_rivals import RIVALS, Sizer, kvarn
from kvarn.planner.accelerators import GIB

SHARES = (1, 5, 10)
WORST = 10
SIZERS: Mapping[str, Sizer] = {"kvarn": kvarn(), **RIVALS}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one record.

    Attributes:
        error: predicted over measured, less 1.
    """

    record: Record
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative error; positive where too much was promised."""
        return self.predicted / self.measured - 1

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON, with what may explain it."""
        return {
            "id": self.record["id"],
            "model": self.record["model"],
            "predicted": round(self.predicted, 2),
            "measured": self.measured,
            "error": round(self.error, 4),
            "reason": reason(self.record),
        }


def cache_arithmetic(start: Start, sizer: Sizer) -> Row | None:
    """Tokens from the memory that the log gives."""
    available, tokens = start.record["available_kv_gib"], start.record["kv_tokens"]
    if not (available and tokens and start.says_tokens):
        return None
    return Row(start.record, sizer.tokens(start, available * GIB), tokens)


def settings_memory(start: Start, sizer: Sizer) -> Row | None:
    """Memory for the cache from the settings alone, in GiB."""
    available, account = start.record["available_kv_gib"], start.account
    if account is None or not available or available <= 0:
        return None
    return Row(start.record, sizer.cache_bytes(account) / GIB, available)


def settings_tokens(start: Start, sizer: Sizer) -> Row | None:
    """Tokens from the settings alone."""
    tokens, account = start.record["kv_tokens"], start.account
    if account is None or not tokens or not start.says_tokens:
        return None
    return Row(start.record, sizer.tokens(start, max(sizer.cache_bytes(account), 0.0)), tokens)


CLASSES: Mapping[str, Callable[[Start, Sizer], Row | None]] = {
    "cache_arithmetic": cache_arithmetic,
    "settings_memory": settings_memory,
    "settings_tokens": settings_tokens,
}


def reason(record: Record) -> str:
    """What is known of a record that may explain its error; empty if nothing is."""
    known = (
        (record.get("notes"), record.get("notes")),
        (record.get("error"), "this start failed after its cache was allocated"),
        ("weak" in (record.get("gpu_basis") or ""), "the GPU's name is not from the log"),
        (record.get("compile_cache") == "cold", "compiled in the profile run"),
    )
    return "; ".join(str(words) for holds, words in known if holds)


def read(lines: Iterable[Record], models: Path) -> list[Start]:
    """The start-ups of models whose configs are at hand."""
    configs = load_configs(models)
    return [start for record in lines if (start := read_start(record, configs))]


def summary(rows: list[Row]) -> dict[str, Any]:
    """Shares within 1, 5 and 10 %, and the median error."""
    errors = [abs(row.error) for row in rows]
    shares = {
        f"within_{percent}": round(sum(e <= percent / 100 for e in errors) / len(errors), 3)
        if errors
        else None
        for percent in SHARES
    }
    middle = round(median(errors), 4) if errors else None
    return {"records": len(rows), **shares, "median_error": middle}


def compared(starts: list[Start]) -> dict[str, Any]:
    """Each class for each sizer, and our worst rows."""
    report: dict[str, Any] = {}
    for name, row_of in CLASSES.items():
        rows = {
            sizer: [row for start in starts if (row := row_of(start, formula))]
            for sizer, formula in SIZERS.items()
        }
        worst = sorted(rows["kvarn"], key=lambda row: -abs(row.error))[:WORST]
        report[name] = {
            **{sizer: summary(found) for sizer, found in rows.items()},
            "worst": [row.to_dict() for row in worst],
        }
    report["failures"] = failures(starts)
    return report


def failures(starts: list[Start]) -> dict[str, Any]:
    """How many refused starts are foretold, and how many others are called failures."""
    known = [start for start in starts if start.foretold]
    refused = [start for start in known if start.record["error"]]
    ran = [start for start in known if not start.record["error"]]
    report: dict[str, Any] = {}
    for sizer, formula in SIZERS.items():
        predicted = sum(formula.refuses(start) for start in refused)
        false = sum(formula.refuses(start) for start in ran)
        report[sizer] = {
            "records": len(refused),
            "predicted": predicted,
            "predicted_share": round(predicted / len(refused), 3) if refused else None,
            "ran": len(ran),
            "false": false,
            "false_share": round(false / len(ran), 3) if ran else None,
        }
    formula = SIZERS["kvarn"]
    wrong = [start for start in known if formula.refuses(start) != bool(start.record["error"])]
    report["worst"] = [
        {"id": start.record["id"], "model": start.record["model"], "error": start.record["error"]}
        for start in wrong[:WORST]
    ]
    return report


def show(report: Mapping[str, Any], total: int) -> None:
    """Print the report as text."""
    click.echo(f"{total} records")
    for name, found in report.items():
        click.echo(name.replace("_", " "))
        for sizer in SIZERS:
            words = ", ".join(f"{key} {value}" for key, value in found[sizer].items())
            click.echo(f"  {sizer:16} {words}")
        for row in found["worst"]:
            click.echo("    " + "  ".join(f"{value}" for value in row.values()))


@click.command()
@click.option(
    "--records", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True
)
@click.option(
    "--models", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@refusals()
def main(records: Path, models: Path, *, as_json: bool) -> None:
    """Compare the planner, and other sizers, with real start-ups."""
    lines = load(records)
    report = compared(read(lines, models))
    if as_json:
        click.echo(json.dumps({"total": len(lines), **report}, indent=2))
    else:
        show(report, len(lines))


if __name__ == "__main__":
    main()
