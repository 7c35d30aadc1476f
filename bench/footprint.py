"""Memory, sizes and times against their limits: `python -m bench.footprint [--json]`.

Serves the demo's model in the cluster, leaves it at rest, and measures. The durations of the demo
and of the end-to-end tests are those of their last runs here.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import click
from rich.console import Console
from rich.table import Table

from demo import install, model, objects, timings, view
from demo.cluster import Cluster, ensure_cluster, ensure_images
from demo.findings import Findings
from demo.kube import Kube, proxy
from demo.mirror import Mirror
from demo.story import Story
from hack import cache
from hack.images.build import DEFAULT
from hack.progress import Step, step

MIB = 1 << 20
REST_SECONDS = 60.0
LIMITS: Mapping[str, float] = {
    "operator, resident (MiB)": 120,
    "operator image (MB)": 300,
    "writes of a minute at rest": 0,
    "objects changed in it": 0,
    "demo, warm (s)": 360,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement.

    Attributes:
        limit: the most that it may be; None where none is set.
    """

    name: str
    value: float
    limit: float | None

    @property
    def holds(self) -> bool:
        """Whether it is within its limit."""
        return self.limit is None or self.value <= self.limit


@contextmanager
def served() -> Iterator[tuple[Cluster, Kube, Story]]:
    """The demo's resource, serving and at rest; gone afterwards, with what was started for it."""
    cluster = ensure_cluster()
    ensure_images(cluster)
    folder = model.ensure()
    kube = cluster.connect()
    install.install_operator(cluster, kube, Step("operator"))
    install.prepare_namespace(cluster, kube, folder)
    with Mirror(kube, objects.NAMESPACE) as mirror:
        story = Story(kube, mirror, Findings())
        story.serve()
        story.settle()
        yield cluster, kube, story
        story.delete()
    install.remove_namespace(kube)
    kube.close()
    cluster.take_down()


def measure() -> Iterator[tuple[str, float]]:
    """Every figure by name."""
    with served() as (cluster, kube, story):
        yield from ((f"{act} (s)", seconds) for act, seconds in story.seen.seconds.items())
        before = api_writes(kube), versions(story)
        with step(f"At rest for {REST_SECONDS:.0f} s"):
            time.sleep(REST_SECONDS)
        yield "writes of a minute at rest", api_writes(kube) - before[0]
        yield "objects changed in it", len(versions(story) - before[1])
        yield "operator, resident (MiB)", install.operator_memory_bytes(cluster) / MIB
    for title in DEFAULT:
        yield f"{title} image (MB)", (cache.default().images / f"{title}.tar").stat().st_size / 1e6
    yield from ((f"{name}, warm (s)", seconds) for name, seconds in timings.read().items())


def api_writes(kube: Kube) -> float:
    """Write requests that the operator has made since it started, by its own metrics."""
    (pod,) = kube.list(
        "Pod", namespace=install.OPERATOR_NAMESPACE, selector=f"app={install.OPERATOR}"
    )
    path = proxy("pods", pod["metadata"]["name"], namespace=install.OPERATOR_NAMESPACE, port=8080)
    return view.metric(kube.fetch(f"{path}/metrics"), "kvarn_api_writes_total")


def versions(story: Story) -> set[tuple[str, str]]:
    """The resource and its children, each with the version that the API server gave it."""
    kinds = ("KVarNDeployment", "Deployment", "Service", "PodDisruptionBudget", "Pod")
    return {
        (kind, found["metadata"]["resourceVersion"])
        for kind in kinds
        for found in story.mirror.all(kind)
    }


def table(figures: list[Figure]) -> Table:
    """The figures beside their limits."""
    shown = Table("figure", box=None)
    shown.add_column("measured", justify="right")
    shown.add_column("at most", justify="right")
    for figure in figures:
        limit = "" if figure.limit is None else f"{figure.limit:,.0f}"
        style = "" if figure.holds else "bold red"
        shown.add_row(figure.name, f"{figure.value:,.1f}", limit, style=style)
    return shown


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def main(*, as_json: bool) -> None:
    """Measure what the operator, the images and the demo take; exit 1 where a limit is broken."""
    figures = [Figure(name, round(value, 1), LIMITS.get(name)) for name, value in measure()]
    if as_json:
        click.echo(json.dumps([asdict(figure) for figure in figures], indent=1))
    else:
        Console().print(table(figures))
    if not all(figure.holds for figure in figures):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
