"""What the demo shows: the plan, the completion, the summary."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from demo import view
from demo.findings import CacheFigures, Findings
from demo.kube import Kube
from demo.load import Summary
from demo.mirror import Mirror
from hack.progress import console

MIB = 1 << 20
LOG_LINES = 15


def plan_table(figures: CacheFigures) -> Table:
    """The plan beside what vLLM measured."""
    table = Table("", "planned", "measured", "error", title=f"KV cache in {figures.format}")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row(
        "tokens in the cache",
        f"{figures.planned_tokens:,}",
        f"{figures.measured_tokens:,}",
        f"{figures.error_percent:+.1f} %",
    )
    table.add_row("bf16 in the same memory", f"{figures.bf16_tokens:,}", "", "")
    table.add_row("bytes per token", "", f"{figures.bytes_per_token:,.1f}", "")
    table.add_row("cache", f"{figures.cache_bytes / MIB:,.0f} MiB", "", "")
    table.add_row("longest request", f"{figures.max_tokens:,} tokens", "", "")
    table.add_row("requests at once", f"{figures.max_sequences}", "", "")
    return table


def stream(prompt: str, words: Iterable[str]) -> str:
    """Print a completion as it comes; returns all of it."""
    console.print(f"[bold]{prompt}[/]", end="")
    said = ""
    for word in words:
        console.out(word, end="", highlight=False)
        said += word
    console.print("\n")
    return prompt + said


def counts(name: str, told: Mapping[str, int]) -> str:
    """A load's counts so far, in a few words."""
    return f"{name}: {told['ok']} answered, {told['failed']} failed" if told else ""


def diagnosis(kube: Kube, mirror: Mirror) -> Iterator[Text]:
    """Conditions of the resource, states of its pods and the ends of their logs."""
    for condition in view.status(mirror.get("KVarNDeployment", view.NAME)).get("conditions", ()):
        line = f"{condition['type']} {condition['status']} {condition['reason']}"
        yield Text(f"{line}: {condition['message']}\n")
    for pod in mirror.all("Pod"):
        yield Text(f"{view.pod_states([pod])}\n", style="bold")
        if view.belongs(pod) and not view.is_ready(pod):
            log = kube.log(pod["metadata"]["name"], namespace=mirror.namespace, lines=LOG_LINES)
            yield Text(log, style="dim")


def summary_table(seen: Findings) -> Table:
    """What was seen, one figure a line."""
    table = Table("what was seen", "figure", title="Summary")
    table.columns[1].justify = "right"
    for name, figure in _rows(seen):
        table.add_row(name, figure)
    return table


def as_json(seen: Findings) -> dict[str, Any]:
    """The findings for machines."""
    return asdict(seen)


def _rows(seen: Findings) -> Iterable[tuple[str, str]]:
    for act, seconds in seen.seconds.items():
        yield act, f"{seconds:,.1f} s"
    for figures in (seen.cache, seen.edited):
        if figures:
            yield from _cache_rows(figures)
    for name, load in (("burst", seen.burst), ("steady load", seen.steady)):
        if load:
            yield f"requests of the {name}: sent, failed", f"{load.sent:,}, {load.failed:,}"
            yield f"median time to a first token, {name}", _median(load)
    yield (
        "replicas: most, and after the load",
        f"{seen.most_replicas}, {seen.fewest_replicas_after}",
    )
    yield "operator's memory", f"{seen.operator_memory_bytes / MIB:.0f} MiB"


def _cache_rows(figures: CacheFigures) -> Iterable[tuple[str, str]]:
    against = f"{figures.measured_tokens:,} ({figures.gain:.1f} times bf16)"
    yield f"tokens in the cache, {figures.format}", against
    yield f"bytes per token, {figures.format}", f"{figures.bytes_per_token:,.1f}"


def _median(load: Summary) -> str:
    return f"{load.first_token_seconds.get('p50', 0.0):.2f} s"
