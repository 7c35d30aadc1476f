"""What the goal takes of one who knows the future: `python -m bench.autoscaler.reach DIR`.

DIR holds the three traces. The future is planned for in many ways, each from the size that all
autoscalers begin with and without a flap, as is asked of ours; of those that are late as rarely as
the goal wants, the cheapest counts. Where that takes more than the goal allows, it is not to be
expected of who has to guess. It is no proof: better plans may exist.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.autoscaler import oracle, traces
from bench.autoscaler.cluster import Setup
from bench.autoscaler.compare import OURS, RIVALS, Scene, compare
from bench.autoscaler.policies.fixed import Schedule
from bench.autoscaler.summary import FLAP_SECONDS, Summary
from bench.autoscaler.variants import FILES, Variant, read_trace
from bench.autoscaler.verdict import FEWER_HOURS, FEWER_VIOLATIONS, best_rival

USES = tuple(use / 100 for use in range(40, 115, 5))
WINDOWS_SECONDS = (60.0, 300.0, 900.0)
FIXED = range(1, 17)
"""Sizes that are tried without a change, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """A way to the goal on a trace, against its best rival.

    Attributes:
        late: share of late requests that is allowed.
        allowed_hours: GPU-hours that are.
        needed_hours: the least that were found to do; None if none did.
    """

    trace: str
    rival: str
    late: float
    allowed_hours: float
    needed_hours: float | None

    @property
    def is_open(self) -> bool:
        """Whether it can be reached."""
        return self.needed_hours is not None and self.needed_hours <= self.allowed_hours


def reach(name: str, made: Scene) -> list[Reach]:
    """Both ways to the goal on the trace called `name`."""
    results = compare(made, (OURS, *RIVALS))
    rival = best_rival(results)
    theirs = results[rival].summary
    works = (made.work, results[OURS].work)
    played = [made.play(plan).summary for plan in set(_plans(made.setup, works))]
    ways = ((FEWER_VIOLATIONS, 1.0), (1.0, FEWER_HOURS))
    return [
        Reach(
            trace=name,
            rival=rival,
            late=round(late * theirs.ttft_violations, 5),
            allowed_hours=round(hours * theirs.gpu_hours, 2),
            needed_hours=_least(played, late * theirs.ttft_violations),
        )
        for late, hours in ways
    ]


def _plans(setup: Setup, works: Sequence[oracle.Work]) -> Iterator[Schedule]:
    for work, use, window in product(works, USES, WINDOWS_SECONDS):
        yield oracle.schedule(
            work, setup, use=use, window_seconds=window, calm_seconds=FLAP_SECONDS
        )
    for size in FIXED:
        yield Schedule(sizes=(size,))


def _least(played: Sequence[Summary], late: float) -> float | None:
    hours = (each.gpu_hours for each in played if each.ttft_violations <= late and not each.flaps)
    return min((round(each, 2) for each in hours), default=None)


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(folder: Path, *, as_json: bool) -> None:
    """Print both ways for each trace."""
    found: list[Reach] = []
    try:
        for name in FILES:
            variant = Variant(name=name, requests=read_trace(folder, name))
            found.extend(reach(name, variant.scene()))
    except traces.TraceError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps([_row(each) for each in found], indent=1))
    else:
        Console().print(_table(found))


def _row(found: Reach) -> dict[str, Any]:
    return {**asdict(found), "open": found.is_open}


def _table(found: Sequence[Reach]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("trace", "best rival", "late, at most", "GPU-h allowed", "needed", "open"):
        left = heading in ("trace", "best rival")
        table.add_column(heading, justify="left" if left else "right")
    for each in found:
        needed = "none does" if each.needed_hours is None else f"{each.needed_hours:.2f}"
        table.add_row(
            *(each.trace, each.rival, f"{each.late:.2%}", f"{each.allowed_hours:.2f}", needed),
            "yes" if each.is_open else "no",
        )
    return table


if __name__ == "__main__":
    main()
