"""The plan on a terminal: the account, the formats side by side, the limits, the command."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvarn.planner.accelerators import GIB, Accelerator
from kvarn.planner.result import Plan
from kvarn.planner.shape import ModelShape

TITLES = {
    "total": "total",
    "unused": "kept free",
    "weights": "weights",
    "activations": "activations",
    "nonTorch": "outside PyTorch",
    "cudaGraphs": "CUDA graphs",
    "runtime": "runtime",
    "cache": "KV cache",
    "left": "left",
}


def print_plan(
    console: Console, shape: ModelShape, plan: Plan, command: str, *, explain: bool
) -> None:
    """The whole plan; with `explain`, every decision and where each figure comes from."""
    console.print(_headline(shape, plan), soft_wrap=True)
    console.print(Text(plan.reason, style="green"), soft_wrap=True)
    console.print(_account(plan, explain=explain))
    console.print(_formats(plan))
    if explain:
        console.print(_choices(plan))
    console.print(Text(command, style="bold"), soft_wrap=True)


def print_gpus(console: Console, gpus: Iterable[Accelerator]) -> None:
    """The table of GPUs."""
    table = _table("GPU", ("memory", "GiB"), ("bandwidth", "GB/s"))
    for gpu in gpus:
        bandwidth = f"{gpu.bandwidth_bytes // 10**9:,}"
        table.add_row(gpu.product, f"{gpu.memory_bytes / GIB:.2f}", bandwidth)
    console.print(table)


def _headline(shape: ModelShape, plan: Plan) -> Text:
    device = plan.accelerator
    count = f"{device.count} of " if device.count > 1 else ""
    return Text(
        f"{shape.architecture}, {shape.layers} layers, {shape.kv_heads} KV heads of"
        f" {shape.head_dim}, on {count}{device.product}, vLLM {plan.engine_version}",
        style="bold",
    )


def _account(plan: Plan, *, explain: bool) -> Table:
    table = _table("memory of one device", ("", "GiB"))
    if explain:
        table.add_column("from")
    for line in plan.account:
        row = (TITLES[line.name], f"{line.size_bytes / GIB:.2f}")
        table.add_row(*row, *((line.note,) if explain else ()))
    return table


def _formats(plan: Plan) -> Table:
    table = _table("format", ("cache", "tokens"), ("", "requests"))
    table.add_column("")
    for other in plan.alternatives:
        chosen = other.format == plan.format
        table.add_row(
            other.format,
            f"{other.cache_tokens:,}" if other.cache_tokens else "-",
            f"{other.requests:,}" if other.cache_tokens else "-",
            "chosen" if chosen else other.note,
            style="bold" if chosen else None,
        )
    return table


def _choices(plan: Plan) -> Table:
    table = _table("limit", ("", "value"))
    table.add_column("because")
    for choice in plan.choices:
        table.add_row(choice.name, choice.value, choice.reason)
    return table


def _table(first: str, *numbers: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(first)
    for words in numbers:
        table.add_column(" ".join(filter(None, words)), justify="right")
    return table
