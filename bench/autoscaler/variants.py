"""Ours against its best rival on variants of the traces: `python -m bench.autoscaler.variants DIR`.

DIR holds the three traces. They are thinned, slowed, shifted and drawn again, and there is made-up
traffic of ordinary shapes: what a policy owes to one trace alone shows here.
"""

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.autoscaler import roofline, settings, traces
from bench.autoscaler.cluster import Setup
from bench.autoscaler.compare import OURS, RIVALS, Result, Scene, compare, scene
from bench.autoscaler.requests import PREFIX_TOKENS, Request
from bench.autoscaler.summary import Target
from bench.autoscaler.verdict import Verdict, best_rival

FILES = {
    "azure": "AzureLLMInferenceTrace_conv_2023.csv",
    "mooncake": "mooncake_synthetic_trace.jsonl",
    "servegen": "servegen_m-small_client_rates.tar.gz",
}
"""By format, what DIR holds; docs/autoscaling.md says where each is published."""
HOURS = 6.0
HOUR = 3600.0
CHAT = (traces.CHAT_PROMPT, traces.CHAT_OUTPUT)
CODE = ((7.6, 0.8), (3.5, 0.8))
"""Lengths of requests, as (mu, sigma) of log-normal distributions."""
TURNS, TURN_SECONDS = 6, 60.0
"""Of a chat whose prompts begin with all that was said before."""

Requests = Sequence[Request]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Requests, and what differs in what serves them.

    Attributes:
        setup: of `bench.autoscaler.cluster.Setup`.
    """

    name: str
    requests: Requests
    setup: Mapping[str, Any] = field(default_factory=dict)

    def scene(self) -> Scene:
        """What serves them."""
        server = roofline.choose("auto", cache_format=roofline.KVARN, requests=self.requests)
        setup = Setup(server=server, **self.setup)
        return scene(self.requests, setup, Target(step=server.step))

    def play(self, policies: Sequence[str]) -> dict[str, Result]:
        """The results of `policies`."""
        return compare(self.scene(), policies)


def variants(folder: Path) -> Iterator[Variant]:
    """All of them."""
    yield from _recorded(folder)
    yield from _made_up()


def read_trace(folder: Path, name: str, *, rate: float | None = None, seed: int = 0) -> Requests:
    """A trace as it is, or scaled to another mean rate.

    Raises:
        TraceError: it is not there.
    """
    return traces.read(folder / FILES[name], name, hours=HOURS, rate=rate, seed=seed)


def _recorded(folder: Path) -> Iterator[Variant]:
    read = partial(read_trace, folder)
    for name in ("azure", "mooncake"):
        whole = read(name)
        span = whole[-1].arrival
        yield Variant(name=name, requests=whole)
        yield Variant(name=f"{name}, half of it", requests=thinned(whole, 0.5))
        yield Variant(name=f"{name}, a quarter of it", requests=thinned(whole, 0.25))
        yield Variant(name=f"{name}, slowed twofold", requests=slowed(whole, 2.0))
        yield Variant(name=f"{name}, from a third on", requests=shifted(whole, span / 3))
    conversations = read("azure")
    slow_start = {"startup_seconds": 240.0}
    yield Variant(name="azure, starts of 240 s", requests=conversations, setup=slow_start)
    yield Variant(name="azure, random routing", requests=conversations, setup={"routing": "random"})
    yield Variant(name="servegen", requests=read("servegen"))
    yield Variant(name="servegen, half the rate", requests=read("servegen", rate=1.5))
    yield Variant(name="servegen, drawn again", requests=read("servegen", seed=1))
    yield Variant(name="servegen, from 2 h on", requests=shifted(read("servegen"), 2 * HOUR))


def thinned(requests: Requests, share: float) -> Requests:
    """So many of them, drawn at random."""
    draw = random.Random(0)
    return [request for request in requests if draw.random() < share]


def slowed(requests: Requests, times: float) -> Requests:
    """All of them, in so many times the time."""
    return [replace(request, arrival=times * request.arrival) for request in requests]


def shifted(requests: Requests, seconds: float) -> Requests:
    """Those that come so late or later."""
    return [
        replace(request, arrival=request.arrival - seconds)
        for request in requests
        if request.arrival >= seconds
    ]


def _made_up() -> Iterator[Variant]:
    shapes: dict[str, Callable[[float], float]] = {
        "steady": lambda _: 6.0,
        "step": lambda at: 9.0 if HOUR < at < 2 * HOUR else 3.0,
        "ramp": lambda at: 2.0 + 8.0 * at / (3 * HOUR),
        "spikes": lambda at: 10.0 if at % 2400 < 300 else 3.0,
        "day": lambda at: 5.0 + 4.0 * math.sin(2 * math.pi * at / (3 * HOUR)),
    }
    for name, rate in shapes.items():
        yield Variant(name=f"chats, {name}", requests=drawn(rate, CHAT))
    yield Variant(name="code, day", requests=drawn(lambda at: shapes["day"](at) / 2, CODE))
    yield Variant(name="chats that go on, day", requests=talks(shapes["day"]))


def drawn(rate: Callable[[float], float], lengths: Sequence[tuple[float, float]]) -> Requests:
    """Three hours of independent requests, `rate(second)` a second."""
    draw, at, most, found = random.Random(0), 0.0, 12.0, []
    while (at := at + draw.expovariate(most)) < 3 * HOUR:
        if draw.random() * most < rate(at):
            prompt, output = (math.ceil(draw.lognormvariate(*length)) for length in lengths)
            found.append(Request(arrival=at, prompt_tokens=prompt, output_tokens=output))
    return found


def talks(rate: Callable[[float], float]) -> Requests:
    """Chats of `TURNS` requests, each of whose prompts begins with the one before."""
    found = []
    for number, first in enumerate(drawn(lambda at: rate(at) / TURNS, CHAT)):
        blocks = tuple(range(number * TURNS, (number + 1) * TURNS))
        for turn in range(TURNS):
            turned = replace(
                first,
                arrival=first.arrival + turn * TURN_SECONDS,
                prompt_tokens=(turn + 1) * PREFIX_TOKENS,
                prefix=blocks[: turn + 1],
            )
            found.append(turned)
    return sorted(found, key=lambda request: request.arrival)


@click.command(help=f"{__doc__}\nTheir names there: {', '.join(FILES.values())}.")
@click.argument(
    "folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--only", default="", help="Variants whose names contain this.")
@click.option("--rival", "rivals", type=click.Choice(list(RIVALS)), multiple=True, help="[all]")
@click.option(
    "--set", "changes", multiple=True, metavar="NAME=VALUE", help="A constant of our policy."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    folder: Path, *, only: str, rivals: Sequence[str], changes: Sequence[str], as_json: bool
) -> None:
    """Print a line for each variant, and the sums."""
    names = (OURS, *(rivals or RIVALS))
    try:
        for setting in changes:
            settings.change(*settings.read(setting))
        chosen = [variant for variant in variants(folder) if only in variant.name]
    except (settings.SettingError, traces.TraceError) as error:
        raise click.ClickException(str(error)) from error
    rows = {variant.name: _row(variant.play(names)) for variant in chosen}
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        Console().print(_table(rows))


Row = dict[str, Any]


def _row(results: Mapping[str, Result]) -> Row:
    ours, best = results[OURS].summary, best_rival(results)
    theirs = results[best].summary
    return {
        "gpu_hours": round(ours.gpu_hours, 2),
        "late": round(ours.ttft_violations, 4),
        "flaps": ours.flaps,
        "rival": best,
        "rival_gpu_hours": round(theirs.gpu_hours, 2),
        "rival_late": round(theirs.ttft_violations, 4),
        "beaten": Verdict.between(ours, best, theirs).beaten,
    }


def _table(rows: Mapping[str, Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("variant", "GPU-h", "late", "flaps", "rival", "GPU-h", "late", "beaten"):
        table.add_column(heading, justify="left" if heading in ("variant", "rival") else "right")
    for name, row in rows.items():
        table.add_row(name, *_cells(row))
    hours, late, flaps = (
        [row[name] for row in rows.values()] for name in ("gpu_hours", "late", "flaps")
    )
    table.add_row(
        "sum; late: mean", f"{sum(hours):.1f}", f"{fmean(late or [0]):.2%}", str(sum(flaps))
    )
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        *(f"{row['gpu_hours']:.2f}", f"{row['late']:.2%}", str(row["flaps"])),
        *(row["rival"], f"{row['rival_gpu_hours']:.2f}", f"{row['rival_late']:.2%}"),
        "yes" if row["beaten"] else "no",
    )


if __name__ == "__main__":
    main()
