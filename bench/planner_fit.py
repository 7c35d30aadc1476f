"""The account's constants, read off real start-ups: `python -m bench.planner_fit --records FILE …`.

Prints each constant of `kvarn.planner.memory` and `kvarn.planner.version` as it stands beside what
the records say, with the number of records behind it. It changes nothing: a constant is rounded,
and must make sense for the mechanism that it describes.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import click

from bench.planner import Record, batch_limits, find_device, load_shapes, model_key
from kvarn.planner import ModelShape
from kvarn.planner.accelerators import GIB
from kvarn.planner.memory import GRAPH_LAYER_BYTES, GRAPH_LAYER_TOKEN_BYTES, GRAPH_TOKENS
from kvarn.planner.version import MIB, EngineVersion


@dataclass(frozen=True, slots=True)
class Fit:
    """One constant.

    Attributes:
        name: which, and for which records.
        stands: its value in the planner.
        found: its value by the records.
        records: how many they are.
    """

    name: str
    stands: float
    found: float
    records: int


@dataclass(frozen=True, slots=True)
class Start:
    """A record with the shape of its model and its engine's version."""

    record: Record
    shape: ModelShape
    version: EngineVersion

    @property
    def logits(self) -> int:
        """Logits that the profile run samples from."""
        device = find_device(self.record)
        return batch_limits(self.record, device).max_sequences * self.shape.vocab_size

    @property
    def sampling_bytes(self) -> float:
        """The measured activation peak without the hidden states beneath it."""
        batch = batch_limits(self.record, find_device(self.record))
        hidden = batch.max_batched_tokens * self.shape.hidden_size * self.shape.dtype_bytes
        return float(self.record["activation_gib"]) * GIB - hidden


def starts(records: Iterable[Record], shapes: dict[str, ModelShape]) -> Iterator[Start]:
    """The records whose model, version and device are known."""
    for record in records:
        shape = shapes.get(model_key(record["model"]))
        if shape and record["vllm_version"] and find_device(record):
            yield Start(record, shape, EngineVersion.parse(record["vllm_version"]))


def sampler_fits(found: list[Start]) -> Iterator[Fit]:
    """Bytes per logit: the slope of the peak over the logits, or the median where one size is."""
    stated = [start for start in found if start.record["activation_gib"] and start.logits > 4e7]
    for bytes_each in sorted({start.version.crowded_sampler_bytes for start in stated}):
        chosen = [start for start in stated if start.version.crowded_sampler_bytes == bytes_each]
        sizes = [start.logits for start in chosen]
        peaks = [start.sampling_bytes for start in chosen]
        if len(set(sizes)) > 2:
            slope = linear_regression(sizes, peaks).slope
        else:
            slope = median(peak / size for peak, size in zip(peaks, sizes, strict=True))
        names = sorted({start.version.name for start in chosen})
        yield Fit(f"bytes per logit, {names[0]} to {names[-1]}", bytes_each, slope, len(chosen))


def non_torch_fits(found: list[Start]) -> Iterator[Fit]:
    """MiB outside PyTorch, on one GPU and on several."""
    stated = [start for start in found if start.record["nontorch_gib"]]
    for parallel in (False, True):
        chosen = [start for start in stated if (start.record["tp"] > 1) == parallel]
        for value in sorted({_non_torch(start, parallel=parallel) for start in chosen}):
            group = [start for start in chosen if _non_torch(start, parallel=parallel) == value]
            measured = median(start.record["nontorch_gib"] * GIB / MIB for start in group)
            name = "several GPUs" if parallel else "one GPU"
            yield Fit(f"MiB outside PyTorch, {name}", value / MIB, measured, len(group))


def _non_torch(start: Start, *, parallel: bool) -> int:
    return start.version.fabric_bytes if parallel else start.version.non_torch_bytes


def graph_fit(found: list[Start]) -> Iterator[Fit]:
    """MiB per layer that vLLM estimates for graphs of up to 512 tokens."""
    stated = [start for start in found if start.record.get("graph_estimated_gib")]
    full = [start for start in stated if start.record["max_num_seqs"] is None]
    each = [start.record["graph_estimated_gib"] * GIB / start.shape.layers / MIB for start in full]
    if each:
        stands = (GRAPH_LAYER_BYTES + GRAPH_TOKENS * GRAPH_LAYER_TOKEN_BYTES) / MIB
        yield Fit("MiB of CUDA graphs per layer", stands, median(each), len(each))


@click.command()
@click.option("--records", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--models", type=click.Path(exists=True, path_type=Path), required=True)
def main(records: Path, models: Path) -> None:
    """Print the account's constants beside what real start-ups say."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in records.read_text().splitlines()]
    found = list(starts(lines, load_shapes(models)))
    for fit in (*sampler_fits(found), *non_torch_fits(found), *graph_fit(found)):
        click.echo(
            f"{fit.name:40} stands {fit.stands:8.1f}  records say {fit.found:8.1f} ({fit.records})"
        )


if __name__ == "__main__":
    main()
