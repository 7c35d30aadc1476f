"""What the demo shows: the plan, the completion, the summary."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from rich import box
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
    planned = f"{figures.planned_tokens:,}"
    measured = f"{figures.measured_tokens:,}"
    table = _table("", "planned", "measured", "error")
    table.title = f"KV cache in {figures.format}"
    table.add_row("tokens in the cache", planned, measured, f"{figures.error_percent:+.1f} %")
    table.add_row("the same memory in bf16", f"{figures.bf16_tokens:,}", "", "")
    table.add_row("bytes per token", "", f"{figures.bytes_per_token:,.0f}", "")
    table.add_row("bytes per token in bf16", f"{figures.bf16_bytes_per_token:,}", "", "")
    table.add_row("bytes of cache", f"{figures.cache_bytes:,}", "", "")
    table.add_row("tokens of one request, at most", f"{figures.max_tokens:,}", "", "")
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


def counts(loads: Iterable[Mapping[str, int]]) -> str:
    """What has become of all requests so far, in a few words."""
    total = Counter[str]()
    for each in loads:
        total.update(each)
    return f"{total['ok']} answered, {total['failed']} failed" if total else ""


def diagnosis(kube: Kube, mirror: Mirror) -> Iterator[Text]:
    """Conditions of the resource, states of its pods and the ends of their logs."""
    for condition in view.status(mirror.get("KVarNDeployment", view.NAME)).get("conditions", ()):
        line = f"{condition['type']} {condition['status']} {condition['reason']}"
        yield Text(f"{line}: {condition['message']}")
    for pod in mirror.all("Pod"):
        yield Text(f"{view.pod_states([pod])}", style="bold")
        if view.belongs(pod) and not view.is_ready(pod):
            log = kube.log(pod["metadata"]["name"], namespace=mirror.namespace, lines=LOG_LINES)
            yield Text(log, style="dim")


def summary_table(seen: Findings, titles: Mapping[str, str]) -> Table:
    """What was seen, one figure a line; `titles` of the acts."""
    table = _table("what was seen", "figure")
    for name, figure in _rows(seen, titles):
        table.add_row(name, figure)
    return table


def _table(*headings: str) -> Table:
    table = Table(*headings, box=box.SIMPLE_HEAD, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _rows(seen: Findings, titles: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for figures in (seen.before, seen.after):
        if figures:
            yield from _cache_rows(figures)
    yield "replicas under the burst, and after it", " → ".join(map(str, seen.replicas))
    for name, load in (("burst", seen.burst), ("steady load", seen.steady)):
        if load:
            yield from _load_rows(name, load)
    for act, seconds in seen.seconds.items():
        yield titles.get(act, act), f"{seconds:,.1f} s"
    yield "operator's resident memory", f"{seen.operator_memory_bytes / MIB:.0f} MiB"


def _cache_rows(figures: CacheFigures) -> Iterator[tuple[str, str]]:
    yield f"{figures.format}: tokens in the cache", f"{figures.measured_tokens:,}"
    yield "  times the tokens of bf16", f"{figures.gain:.2f}"
    yield "  bytes per token", f"{figures.bytes_per_token:,.0f}"


def _load_rows(name: str, load: Summary) -> Iterator[tuple[str, str]]:
    yield f"{name}: requests sent", f"{load.sent:,}"
    yield "  failed", f"{load.failed:,}"
    yield "  output tokens per second", f"{load.output_tokens_per_second:,.0f}"
    yield "  median time to the first token", f"{load.first_token_seconds['p50']:.2f} s"
