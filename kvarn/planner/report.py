"""The plan on a terminal: the account, the formats side by side, the limits, the command."""

from collections.abc import Iterable, Mapping

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
    "scratch": "scratch",
    "runtime": "runtime",
    "learned": "learned",
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


def print_models(console: Console, models: Mapping[str, ModelShape]) -> None:
    """The table of models whose shapes are built in."""
    table = _table("model", ("", "layers"), ("weights", "GiB"), ("longest", "context"))
    table.add_column("keeps")
    for name, shape in models.items():
        context = f"{shape.max_position_tokens:,}"
        weights = f"{shape.weight_bytes / GIB:,.1f}"
        table.add_row(name, f"{shape.layers}", weights, context, _kept(shape))
    console.print(table)


def _kept(shape: ModelShape) -> str:
    """What the layers keep: `16 full, 48 state`."""
    return ", ".join(f"{kind.layers} {kind.kind}" for kind in shape.kinds)


def _headline(shape: ModelShape, plan: Plan) -> Text:
    device = plan.accelerator
    count = f"{device.devices} of " if device.devices > 1 else ""
    stages = f" in {device.stages} stages" if device.stages > 1 else ""
    return Text(
        f"{shape.architecture}, {_layers(shape)}, on {count}{device.product}{stages}, vLLM"
        f" {plan.engine_version}",
        style="bold",
    )


def _layers(shape: ModelShape) -> str:
    if shape.layer_kinds:
        return f"{shape.layers} layers ({_kept(shape)})"
    return f"{shape.layers} layers, {shape.kv_heads} KV heads of {shape.head_dim}"


def _account(plan: Plan, *, explain: bool) -> Table:
    table = _table("memory of one device", ("", "GiB"))
    if explain:
        table.add_column("from")
    for line in plan.account:
        row = (TITLES[line.name], f"{line.size_bytes / GIB:.2f}")
        table.add_row(*row, *((line.note,) if explain else ()))
    return table


def _formats(plan: Plan) -> Table:
    table = _table("format", ("cache", "tokens"), ("", "requests"), ("", "tokens/s"))
    table.add_column("")
    for other in plan.alternatives:
        chosen = other.format == plan.format
        numbers = (other.cache_tokens, other.requests, other.tokens_per_second)
        table.add_row(
            other.format,
            *(f"{number:,}" if number else "-" for number in numbers),
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
