"""The account's constants, read off real start-ups: `python -m bench.planner_fit --records …`.

Prints fitted constants of `kvarn.planner.version` as they stand beside what the records say, with
the number of records behind each. It changes nothing: a constant is rounded, and must make sense
for the mechanism that it describes. Then it leaves one source of records out at a time, fits the
constants to the others, and forecasts the source that was left out.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import click

from bench.planner import Row, read, settings_memory, settings_tokens, summary
from bench.planner_records import Account, Record, Start, load
from bench.planner_refusal import refusals
from bench.planner_rivals import kvarn
from kvarn.planner.accelerators import GIB
from kvarn.planner.memory import (
    ALLOCATOR_BYTES,
    CROWDED_SEQUENCES,
    activation_bytes,
    has_fabric,
    overhead,
)
from kvarn.planner.version import EngineVersion

SAMPLER = "sampler_bytes"
"""Of a few sequences or a crowd: where the constant is one, so is the mechanism."""

Constants = Mapping[tuple[str, float], float]
"""(field of `EngineVersion`, its value as it stands) -> its value by the records."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What one start-up says of one constant.

    Attributes:
        field: of `EngineVersion`.
        stands: the constant's value.
        found: its value by this record.
        source: who published the record.
    """

    field: str
    stands: float
    found: float
    source: str


def source_of(record: Record) -> str:
    """The repository that a record was taken from."""
    return "/".join(record["source_url"].split("/")[3:5])


def observations(starts: Iterable[Start]) -> Iterator[Observation]:
    """All that the start-ups say."""
    for start in starts:
        if (account := start.account) and not start.record["error"]:
            yield from _non_torch(account)
            yield from _sampler(account)


def _non_torch(account: Account) -> Iterator[Observation]:
    if stated := account.start.record["nontorch_gib"]:
        shared = "fabric_bytes" if has_fabric(account.device) else "parallel_bytes"
        field = "non_torch_bytes" if account.device.count == 1 else shared
        yield _observed(account, field, stated * GIB)


def _sampler(account: Account) -> Iterator[Observation]:
    """Bytes per logit, where sampling is the peak."""
    start = account.start
    shape, batch = start.shape, start.batch
    logits = batch.max_sequences * shape.vocab_size
    silent = replace(account.version, sampler_bytes=0.0, crowded_sampler_bytes=0.0)
    layers = activation_bytes(shape, account.device, batch, silent)
    peak = _peak(account)
    hidden = batch.max_batched_tokens * shape.hidden_size * shape.dtype_bytes
    if shape.multimodal or shape.pooling or peak is None or peak < 1.1 * layers + CLEAR_BYTES:
        return
    crowded = batch.max_sequences > CROWDED_SEQUENCES
    stands = account.version.crowded_sampler_bytes if crowded else account.version.sampler_bytes
    found = (peak - hidden - ALLOCATOR_BYTES) / logits
    yield Observation(SAMPLER, stands, found, source_of(start.record))


def _peak(account: Account) -> float | None:
    """The measured activation peak; what is missing of the memory where none is stated."""
    start, record = account.start, account.start.record
    if record["activation_gib"]:
        return float(record["activation_gib"]) * GIB
    if not (record["available_kv_gib"] and record.get("weights_gib")):
        return None
    lines = overhead(start.shape, account.device, start.batch, account.version)
    others = sum(line.size_bytes for line in lines if line.name in ("nonTorch", "cudaGraphs"))
    held = (record["available_kv_gib"] + record["weights_gib"]) * GIB
    return float(account.budget_bytes - held - others)


CLEAR_BYTES = GIB // 4
"""How far sampling must stand out of what else is uncertain."""


def _observed(account: Account, field: str, found: float) -> Observation:
    stands = float(getattr(account.version, field))
    return Observation(field, stands, found, source_of(account.start.record))


def fitted(found: Iterable[Observation]) -> dict[tuple[str, float], float]:
    """Each constant by the records: their median."""
    groups: defaultdict[tuple[str, float], list[float]] = defaultdict(list)
    for seen in found:
        groups[seen.field, seen.stands].append(seen.found)
    return {key: median(values) for key, values in groups.items()}


def refitted(version: EngineVersion, constants: Constants) -> EngineVersion:
    """The version with the constants that records gave; one that none gave takes the nearest."""

    def again(field: str, stands: float) -> float:
        known = {value: found for (name, value), found in constants.items() if name == field}
        return known[min(known, key=lambda value: abs(value - stands))] if known else stands

    return replace(
        version,
        non_torch_bytes=round(again("non_torch_bytes", version.non_torch_bytes)),
        parallel_bytes=round(again("parallel_bytes", version.parallel_bytes)),
        fabric_bytes=round(again("fabric_bytes", version.fabric_bytes)),
        sampler_bytes=again(SAMPLER, version.sampler_bytes),
        crowded_sampler_bytes=again(SAMPLER, version.crowded_sampler_bytes),
    )


def left_out(starts: list[Start]) -> dict[str, Any]:
    """Forecasts of each source by constants that were fitted to all others."""
    seen = list(observations(starts))
    memory: list[Row] = []
    tokens: list[Row] = []
    for source in sorted({source_of(start.record) for start in starts}):
        constants = fitted(one for one in seen if one.source != source)
        for start in starts:
            if source_of(start.record) == source and start.version:
                again = replace(start, version=refitted(start.version, constants))
                memory += filter(None, [settings_memory(again, kvarn())])
                tokens += filter(None, [settings_tokens(again, kvarn())])
    return {"settings_memory": summary(memory), "settings_tokens": summary(tokens)}


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
    """Print the account's constants beside what real start-ups say, and the cross-validation."""
    starts = read(load(records), models)
    seen = list(observations(starts))
    constants = [
        {
            "field": field,
            "stands": stands,
            "found": round(found, 2),
            "records": sum((one.field, one.stands) == (field, stands) for one in seen),
        }
        for (field, stands), found in sorted(fitted(seen).items())
    ]
    forecasts = left_out(starts)
    if as_json:
        click.echo(json.dumps({"constants": constants, "left_out": forecasts}, indent=2))
        return
    for line in constants:
        click.echo(
            "{field:24} stands {stands:>14}  records say {found:>16} ({records})".format(**line)
        )
    for name, found in forecasts.items():
        click.echo(f"one source left out, {name}: {found}")


if __name__ == "__main__":
    main()
