"""The simulation against a real server: `python -m bench.autoscaler.calibrate [--json]`.

Serves the demo's model on this machine's CPU (or takes a server that runs at --url), measures it
alone and in small batches, fits the cost of a step to that, and replays a load that the server was
under: what the simulation makes of it is set beside what its clients saw. Three minutes.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from statistics import fmean

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.autoscaler.engine import Engine
from bench.autoscaler.recording import Answer, Plan, Recording, record
from bench.autoscaler.requests import Job, Request
from bench.autoscaler.roofline import Server, StepTime
from bench.autoscaler.server import served
from demo import model as demo_model

LIMITS = {
    "cache_tokens": 65536,
    "max_model_tokens": 2048,
    "max_sequences": 8,
    "max_batched_tokens": 512,
}
"""Of the server that is started here."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of a load, as measured and as simulated, in the same unit."""

    name: str
    measured: float
    simulated: float

    @property
    def error(self) -> float:
        """Relative; positive where the simulation gives more."""
        return self.simulated / self.measured - 1


def fit(recording: Recording) -> StepTime:
    """The cost of a step that explains the prompts sent alone, the batches and the crowds.

    A step of decoding takes a fixed time and more for each sequence. What first tokens took beyond
    that is put down to prompts, tokens and pairs of tokens by least squares, and what they took
    longer beside others that decode, to the cache of those.
    """
    fixed, sequence = _decoding(recording)
    chunk = recording.server["max_batched_tokens"]
    lengths = np.array([float(answer.prompt_tokens) for answer in recording.alone])
    waits = np.array([answer.first_token_seconds for answer in recording.alone])
    steps = np.ceil(lengths / chunk)
    costs = np.stack([steps, lengths, lengths**2 / 2], axis=1)
    prompt, token, pair = np.maximum(np.linalg.lstsq(costs, waits - fixed * steps)[0], 0.0)
    step = StepTime(
        fixed=fixed,
        weights=0.0,
        token=float(token),
        context=0.0,
        pair=float(pair),
        sequence=sequence,
        prompt=float(prompt),
    )
    return replace(step, beside=_beside(recording, step))


def _decoding(recording: Recording) -> tuple[float, float]:
    """Seconds of a step of decoding: whatever the batch, and for each sequence."""
    sizes = list(recording.batches)
    steps = [fmean(answer.token_seconds for answer in each) for each in recording.batches.values()]
    grown, lone = np.polyfit(sizes, steps, 1)
    return max(float(lone), 0.0), max(float(grown), 0.0)


def _beside(recording: Recording, step: StepTime) -> float:
    """Seconds for each token that those who decode have in the cache, when a prompt comes."""
    crowded = [
        (size * Plan().crowd[0], answer.first_token_seconds - _alone(answer, step))
        for size, answers in recording.beside.items()
        for answer in answers
    ]
    tokens = np.array([float(tokens) for tokens, _ in crowded])
    extra = np.array([seconds for _, seconds in crowded])
    return max(float(tokens @ extra / (tokens @ tokens)), 0.0)


def _alone(answer: Answer, step: StepTime) -> float:
    return step.fixed + step.prompt + step.prefill_seconds(answer.prompt_tokens)


def replay(recording: Recording, step: StepTime) -> list[Job]:
    """The recording's load in the simulation."""
    limits = recording.server
    server = Server(
        name="measured",
        step=step,
        cache_tokens=limits["cache_tokens"],
        max_model_tokens=limits["max_model_tokens"],
        max_sequences=limits["max_sequences"],
        max_batched_tokens=limits["max_batched_tokens"],
    )
    engine = Engine(server)
    jobs = [
        Job(
            Request(arrival=a.arrival, prompt_tokens=a.prompt_tokens, output_tokens=a.output_tokens)
        )
        for a in sorted(recording.load, key=lambda answer: answer.arrival)
    ]
    engine.arriving = deque(jobs)
    while engine.outstanding:
        engine.advance(engine.now + 60.0)
    return jobs


def compare(recording: Recording) -> list[Figure]:
    """The figures of the load, side by side."""
    jobs, answers = replay(recording, fit(recording)), recording.load
    waits = [answer.first_token_seconds for answer in answers]
    lasts = [answer.finished - answer.arrival for answer in answers]
    simulated_waits = [job.first_token_seconds for job in jobs]
    simulated_lasts = [job.finished - job.request.arrival for job in jobs]
    gaps = [answer.token_seconds for answer in answers]
    simulated_gaps = [
        (job.finished - job.first_token) / max(job.request.output_tokens - 1, 1) for job in jobs
    ]
    kinds: list[tuple[str, Callable[[Sequence[float]], float]]] = [
        ("mean", fmean),
        ("median", lambda values: sorted(values)[len(values) // 2]),
        ("p90", lambda values: sorted(values)[ceil(0.9 * len(values)) - 1]),
    ]
    pairs = {
        "time to first token": (waits, simulated_waits),
        "time between tokens": (gaps, simulated_gaps),
        "time to the last token": (lasts, simulated_lasts),
    }
    return [
        Figure(f"{name}, {kind}", measure(real), measure(made))
        for name, (real, made) in pairs.items()
        for kind, measure in kinds
    ]


@click.command()
@click.option("--url", help="A server that runs already; its limits must be those of the pods.")
@click.option("--records", type=click.Path(path_type=Path), help="A recording, instead of a run.")
@click.option("--save", type=click.Path(path_type=Path), help="Keep the recording there.")
@click.option("--rate", default=Plan().rate, show_default=True, help="Requests a second.")
@click.option("--limit", "limits", type=(str, int), multiple=True, help="NAME VALUE of the server.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    *,
    url: str | None,
    records: Path | None,
    save: Path | None,
    rate: float,
    limits: tuple[tuple[str, int], ...],
    as_json: bool,
) -> None:
    """Compare the simulation with a real server."""
    server = LIMITS | dict(limits)
    recording = Recording.read(records) if records else _run(url, server, Plan(rate=rate))
    if save:
        recording.save(save)
    figures = compare(recording)
    if as_json:
        click.echo(json.dumps(_report(figures), indent=2))
    else:
        Console().print(_table(figures))


def _run(url: str | None, server: dict[str, int], plan: Plan) -> Recording:
    if url:
        return asyncio.run(record(url, server, plan))
    options = (
        *("--kv-cache-dtype", "kvarn_k4v2_g128", "--kv-cache-memory-bytes", str(256 << 20)),
        *("--max-model-len", str(server["max_model_tokens"])),
        *("--max-num-seqs", str(server["max_sequences"])),
        *("--max-num-batched-tokens", str(server["max_batched_tokens"])),
    )
    with served(demo_model.ensure(), *options) as own:
        return asyncio.run(record(own, server, plan))


def _report(figures: Sequence[Figure]) -> dict[str, dict[str, float]]:
    return {
        figure.name: {
            "measured_seconds": round(figure.measured, 5),
            "simulated_seconds": round(figure.simulated, 5),
            "error": round(figure.error, 4),
        }
        for figure in figures
    }


def _table(figures: Sequence[Figure]) -> Table:
    table = Table("figure", "measured", "simulated", "error")
    for figure in figures:
        table.add_row(
            figure.name,
            f"{figure.measured:.3f} s",
            f"{figure.simulated:.3f} s",
            f"{figure.error:+.0%}",
        )
    return table


if __name__ == "__main__":
    main()
