"""Autoscalers on a trace: `python -m bench.autoscaler --trace FILE --format FORMAT [--json]`.

Every policy runs in the same simulation of vLLM servers. A minute at most on two cores.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from bench.autoscaler import plot, roofline, traces
from bench.autoscaler.cluster import Setup
from bench.autoscaler.compare import ORACLE, OURS, POLICIES, Result, Scene, compare, scene
from bench.autoscaler.summary import Target
from bench.autoscaler.traces import TraceError
from bench.autoscaler.verdict import best_rival, verdicts
from bench.option_types import NOT_NEGATIVE, POSITIVE, FiniteRange
from kvarn.planner import PlannerError

ALL = (*POLICIES, ORACLE)


def _names(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",")) if value else ALL
    for name in names:
        if name not in ALL:
            raise click.BadParameter(f"{name!r} is no policy: choose of {', '.join(ALL)}.")
    return names


@click.command()
@click.option("--trace", type=click.Path(path_type=Path), required=True, help="The file.")
@click.option("--format", "trace_format", type=click.Choice(list(traces.FORMATS)), required=True)
@click.option("--policies", callback=_names, default="", help="Names with commas; all if absent.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--svg", type=click.Path(path_type=Path), help="Draw the run there.")
@click.option("--gpu", default="auto", help="GPU of a server; auto: by the trace's lengths.")
@click.option("--cache-format", default=roofline.KVARN, show_default=True)
@click.option(
    "--ttft-seconds",
    type=NOT_NEGATIVE,
    default=5.0,
    show_default=True,
    help="Never late before this.",
)
@click.option(
    "--startup-seconds",
    type=NOT_NEGATIVE,
    default=120.0,
    show_default=True,
    help="Until a server serves.",
)
@click.option("--restart-minutes", type=FiniteRange(min=1), help="Between restarts of ours.")
@click.option(
    "--hours", type=POSITIVE, default=6.0, show_default=True, help="The longest span to take."
)
@click.option("--rate", type=POSITIVE, help="Mean requests per second to scale or thin to.")
@click.option("--routing", type=click.Choice(["work", "random"]), default="work", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of what is drawn.")
def main(
    *,
    trace: Path,
    trace_format: str,
    policies: tuple[str, ...],
    as_json: bool,
    svg: Path | None,
    ttft_seconds: float,
    **options: Any,
) -> None:
    """Replay a request trace through every autoscaling policy, and compare them."""
    made = _scene(trace, trace_format, ttft_seconds=ttft_seconds, **options)
    results = compare(made, policies)
    if svg is not None:
        svg.write_text(plot.svg(made, _shown(results), title=trace.stem))
    if as_json:
        click.echo(json.dumps(_report(made, results), indent=2))
    else:
        _show(Console(), made, results)


def _scene(
    trace: Path,
    trace_format: str,
    *,
    gpu: str,
    cache_format: str,
    ttft_seconds: float,
    startup_seconds: float,
    restart_minutes: float | None,
    hours: float,
    rate: float | None,
    routing: str,
    seed: int,
) -> Scene:
    try:
        requests = traces.read(trace, trace_format, hours=hours, rate=rate, seed=seed)
        server = roofline.choose(gpu, cache_format=cache_format, requests=requests)
    except (TraceError, PlannerError) as error:
        raise click.ClickException(str(error)) from error
    setup = Setup(
        server=server,
        startup_seconds=startup_seconds,
        restart_seconds=60 * restart_minutes if restart_minutes else math.inf,
        routing=routing,
        seed=seed,
    )
    return scene(requests, setup, Target(step=server.step, seconds=ttft_seconds))


def _shown(results: Mapping[str, Result]) -> dict[str, Result]:
    """What is drawn: ours, its best rival, and the references."""
    names = (OURS, best_rival(results), ORACLE, "fixed-peak")
    return {name: results[name] for name in names if name in results}


def _report(scene: Scene, results: Mapping[str, Result]) -> dict[str, Any]:
    span = scene.requests[-1].arrival
    report: dict[str, Any] = {
        "server": scene.setup.server.name,
        "requests": len(scene.requests),
        "hours": round(span / 3600, 3),
        "startup_seconds": scene.setup.startup_seconds,
        "routing": scene.setup.routing,
        "mean_busy_servers": round(scene.work.mean, 2),
        "policies": {name: result.summary.to_dict() for name, result in results.items()},
    }
    if OURS in results:
        report["best_rival"] = best_rival(results)
        report["beaten"] = {verdict.rival: verdict.beaten for verdict in verdicts(results)}
    return report


def _show(console: Console, scene: Scene, results: Mapping[str, Result]) -> None:
    span, setup = scene.requests[-1].arrival, scene.setup
    console.print(
        f"{len(scene.requests):,} requests in {span / 3600:.2f} h; {setup.server.name};"
        f" {setup.startup_seconds:g} s to start"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, result in results.items():
        table.add_row(name, *_cells(result), style="bold" if name == OURS else None)
    console.print(table)
    if OURS in results:
        _judge(console, results)


_HEADINGS = ("GPU-h", "late", "TTFT s", "ITL ms", "pre/rej", "per h", "flaps", "max")
"""TTFT and ITL are median/99th percentile; then requests that were preempted and rejected, and
changes of size an hour."""


def _cells(result: Result) -> tuple[str, ...]:
    s = result.summary
    return (
        f"{s.gpu_hours:.2f}",
        f"{s.ttft_violations:.2%}",
        f"{_short(s.ttft_p50_seconds)}/{_short(s.ttft_p99_seconds)}",
        f"{1000 * s.itl_p50_seconds:.0f}/{1000 * s.itl_p99_seconds:.0f}",
        f"{s.preempted}/{s.rejected}",
        f"{s.scalings_per_hour:.1f}",
        f"{s.flaps}",
        f"{s.largest}",
    )


def _short(value: float) -> str:
    """Three digits or so."""
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _judge(console: Console, results: Mapping[str, Result]) -> None:
    best = best_rival(results)
    for verdict in verdicts(results):
        if verdict.rival == best:
            word = "beats" if verdict.beaten else "does not beat"
            console.print(
                f"{OURS} {word} its best rival, {best}: {verdict.hours:.2f} of its GPU-hours and"
                f" {verdict.violations:.2f} of its late requests."
            )
    if ORACLE in results:
        ratio = results[OURS].summary.gpu_hours / results[ORACLE].summary.gpu_hours
        console.print(f"{OURS} takes {ratio:.2f} times the GPU-hours of the oracle.")


if __name__ == "__main__":
    main()
