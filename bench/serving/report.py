"""Tables of the record."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from bench.serving.record import BASELINE, Record, Run, fastest, goals, throughput


def line(piece: dict[str, Any]) -> str:
    """A piece in a few words."""
    match piece:
        case {"kind": "environment"}:
            words = f"vLLM {piece['vllm']} on {piece['device']}"
        case {"kind": "engine"}:
            words = f"{piece['cache_tokens']:,} tokens of cache"
        case {"kind": "cell" | "workload", "skipped": why}:
            words = f"{_name(piece)} skipped: {why}"
        case {"kind": "cell"}:
            words = f"{_name(piece)} {piece['ms']:.2f} ms"
        case {"kind": "workload"}:
            words = f"{_name(piece)} {piece['saturated']['output_tokens_per_second']:,.0f} tokens/s"
        case {"kind": "check", "finite": finite}:
            words = "answers are finite" if finite else "ANSWERS ARE NOT FINITE"
        case _:
            words = "done"
    return words


def _name(piece: dict[str, Any]) -> str:
    return str(piece.get("name") or f"{piece['sequences']}x{piece['context']}")


def tables(record: Record) -> Iterator[Table]:
    """All of them: capacity, steps and workloads of each model, and the goals."""
    for model in dict.fromkeys(run["model"] for run in record.runs):
        runs = [run for run in record.runs if run["model"] == model]
        yield _capacity(model, runs)
        yield _steps(model, runs)
        yield _workloads(model, runs)
    yield _goals(record.runs)


def _capacity(model: str, runs: Sequence[Run]) -> Table:
    table = Table(
        "format", "cache tokens", "of tokens at most", "sequences", title=f"{model}: cache"
    )
    for run in runs:
        if "failed" in run:
            table.add_row(run["format"], f"failed: {run['failed']['message']}")
        elif engine := run.get("engine"):
            table.add_row(
                run["format"],
                f"{engine['cache_tokens']:,}",
                f"{engine['max_model_len']:,}",
                f"{engine['sequences_at_once']:,}",
            )
    return table


def _steps(model: str, runs: Sequence[Run]) -> Table:
    formats = [run["format"] for run in runs if run["cells"]]
    table = Table("sequences", "context", *formats, "fastest", title=f"{model}: ms of a step")
    for cell in fastest(runs):
        times = (f"{cell['ms'][name]:.2f}" if name in cell["ms"] else "–" for name in formats)
        context = f"{cell['context']:,}"
        table.add_row(str(cell["sequences"]), context, *times, cell["format"] or "–")
    return table


def _workloads(model: str, runs: Sequence[Run]) -> Table:
    table = Table(
        *("workload", "format", "clients", "tokens/s", "× bf16", "preempted"),
        *("first token, p50 / p99 ms", "next token, p50 / p99 ms"),
        title=f"{model}: saturation, and latency at half load",
    )
    for name in dict.fromkeys(each["name"] for run in runs for each in run["workloads"]):
        base = next((throughput(run, name) for run in runs if run["format"] == BASELINE), None)
        for run in runs:
            for each in run["workloads"]:
                if each["name"] == name:
                    table.add_row(name, run["format"], *_figures(each, base))
    return table


def _figures(workload: dict[str, Any], base: float | None) -> Iterator[str]:
    if "skipped" in workload:
        yield f"skipped: {workload['skipped']}"
        return
    full, half = workload["saturated"], workload["half_load"]
    yield str(full["clients"])
    yield f"{full['output_tokens_per_second']:,.0f}"
    yield f"{full['output_tokens_per_second'] / base:.2f}" if base else "–"
    yield str(full["preemptions"])
    for latency in (half["first_token_ms"], half["inter_token_ms"]):
        yield f"{latency['p50']:,.1f} / {latency['p99']:,.1f}" if latency else "–"


def _goals(runs: Sequence[Run]) -> Table:
    words = {None: "not known", True: "[green]met[/]", False: "[red]missed[/]"}
    table = Table("model", "format", "goal", "is", "must be", "", title="goals")
    for each in goals(runs):
        value = "–" if each["value"] is None else f"{each['value']:.2f}"
        bound = f"≤ {each['at_most']}" if "at_most" in each else f"≥ {each['at_least']}"
        about = (each["model"], each["format"], each["goal"])
        table.add_row(*about, value, bound, words[each["met"]])
    return table
