"""The command line: `kvarn plan MODEL --gpu H200` says what fits, what to set, and why.

Exit status: 0 with a plan, 1 when it does not fit, 2 for bad input.
"""

import json
import math
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO

import click

from kvarn.planner import (
    AUTO,
    DEFAULT_VERSION,
    FORMATS,
    Accelerator,
    AcceleratorError,
    Limits,
    ModelShape,
    Plan,
    PlanError,
    PlannerError,
    RequestError,
    Workload,
    known_gpus,
    plan,
)
from kvarn.planner.accelerators import GIB
from kvarn.planner.catalogue import known_models
from kvarn.planner.nodes import WHOLE, described
from kvarn.planner.source import find_shape, serve_arguments
from kvarn.planner.workload import UTILIZATION_PERCENTS

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")
POSITIVE = click.IntRange(min=1)
PIPED_COLUMNS = 120
SHELLS = ("bash", "zsh", "fish")

OPTIONS = {
    "maxTokens": "--max-model-len",
    "maxSequences": "--max-num-seqs",
    "maxBatchedTokens": "--max-num-batched-tokens",
    "utilizationPercent": "--gpu-memory-utilization",
    "promptTokens": "--prompt-tokens",
    "outputTokens": "--output-tokens",
    "state its memory": "give its --memory (`kvarn gpus` lists those that are known)",
    "state the product": "give --gpu",
}
"""How the planner's errors, which speak of a resource's fields, are to be read here."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kvarn")
def main() -> None:
    """Plan the serving of language models from a quantised KV cache."""


def _exits(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a planner's error into one line and the exit status."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except PlannerError as error:
            message = re.sub("|".join(OPTIONS), lambda name: OPTIONS[name[0]], error.message)
            if kwargs.get("as_json"):
                click.echo(json.dumps({"error": {**error.to_dict(), "message": message}}))
            click.echo(f"kvarn: {message}", err=True)
            sys.exit(1 if isinstance(error, PlanError) else 2)

    return run


@main.command("plan")
@click.argument("model")
@click.option("--gpu", help="GPU as in `kvarn gpus`, as a node label, or `cpu`.")
@click.option(
    "--node",
    type=click.File(),
    help="Instead of --gpu: a Node or ResourceSlice from `kubectl get -o json`, - for stdin.",
)
@click.option("--resource", help="What pods ask for, of a Node.", show_default=WHOLE)
@click.option(
    "--tp", type=POSITIVE, default=1, show_default=True, help="GPUs that share each layer."
)
@click.option(
    "--pp",
    type=POSITIVE,
    default=1,
    show_default=True,
    help="Stages of layers, each on GPUs of its own.",
)
@click.option("--memory", type=float, help="Memory of one device in GiB, if not the known one.")
@click.option(
    "--format",
    "cache_format",
    type=click.Choice([AUTO, *FORMATS]),
    default=AUTO,
    show_default=True,
    help="Precision of the KV cache.",
)
@click.option("--prompt-tokens", type=POSITIVE, help="Prompt length to plan for.")
@click.option("--output-tokens", type=POSITIVE, help="Output length to plan for.")
@click.option("--concurrency", type=POSITIVE, help="Requests at once to plan for.")
@click.option("--max-model-len", type=POSITIVE, help="Fix the context length.")
@click.option("--max-num-seqs", type=POSITIVE, help="Fix the number of sequences at once.")
@click.option("--max-num-batched-tokens", type=POSITIVE, help="Fix the tokens of one step.")
@click.option("--gpu-memory-utilization", type=float, help="Fix vLLM's share of the memory.")
@click.option("--vllm-version", default=DEFAULT_VERSION, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--explain", is_flag=True, help="Say where every figure comes from.")
@_exits
def plan_command(
    *,
    model: str,
    gpu: str | None,
    node: TextIO | None,
    resource: str | None,
    tp: int,
    pp: int,
    memory: float | None,
    cache_format: str,
    vllm_version: str,
    as_json: bool,
    explain: bool,
    **numbers: Any,
) -> None:
    """Plan MODEL: a folder, a config.json, or organisation/name."""
    if (gpu is None) == (node is None):
        raise click.UsageError("Give either --gpu or --node.")
    if resource is not None and node is None:
        raise click.UsageError("--resource is of a --node; with --gpu, leave it out.")
    memory_bytes = _memory_bytes(memory)
    if node is not None:
        found = described(_manifest(node), resource=resource, count=tp)
        if memory_bytes is not None:
            found = replace(found, memory_bytes=memory_bytes)
    else:
        found = Accelerator.find(gpu or "", count=tp, memory_bytes=memory_bytes)
    accelerator = replace(found, stages=pp)
    limits = _limits(numbers)
    shape = find_shape(model)
    made = plan(
        shape,
        accelerator,
        workload=_workload(numbers, limits.max_model_tokens or shape.max_position_tokens),
        limits=limits,
        cache_format=cache_format,
        engine_version=vllm_version,
    )
    command = ["vllm", "serve", *serve_arguments(model), *made.vllm_flags()]
    _show(shape, made, command, as_json=as_json, explain=explain)


def _manifest(file: TextIO) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        manifest = json.load(file)
    except ValueError as error:
        raise click.UsageError(f"{file.name} holds no JSON ({error}).") from error
    if not isinstance(manifest, dict):
        raise click.UsageError(f"{file.name} holds no JSON object.")
    return manifest


def _memory_bytes(gib: float | None) -> int | None:
    if gib is None:
        return None
    if not math.isfinite(gib * GIB):
        raise AcceleratorError(
            "InvalidAccelerator", f"--memory is {gib:g}; give GiB that a device can have."
        )
    return round(gib * GIB)


def _workload(numbers: dict[str, Any], longest: int) -> Workload:
    """The workload as far as it is given, in a context of `longest` tokens."""
    names = ("prompt_tokens", "output_tokens", "concurrency")
    return Workload.stated(longest, **{name: numbers[name] for name in names})


def _limits(numbers: dict[str, Any]) -> Limits:
    return Limits(
        max_model_tokens=numbers["max_model_len"],
        max_sequences=numbers["max_num_seqs"],
        max_batched_tokens=numbers["max_num_batched_tokens"],
        utilization_percent=_percent(numbers["gpu_memory_utilization"]),
    )


def _percent(share: float | None) -> int | None:
    if share is None:
        return None
    percent = round(100 * share) if math.isfinite(share) else 0
    if percent not in UTILIZATION_PERCENTS or not math.isclose(percent, 100 * share):
        raise RequestError(
            "InvalidLimits",
            f"--gpu-memory-utilization is {share:g}; give whole hundredths from"
            f" {UTILIZATION_PERCENTS[0] / 100} to {UTILIZATION_PERCENTS[-1] / 100}.",
        )
    return percent


def _show(
    shape: ModelShape, made: Plan, command: list[str], *, as_json: bool, explain: bool
) -> None:
    if as_json:
        report = {"shape": shape.to_dict(), "plan": made.to_dict(), "command": command}
        click.echo(json.dumps(report, indent=2))
        return
    from kvarn.planner.report import print_plan  # noqa: PLC0415

    _print(lambda console: print_plan(console, shape, made, shlex.join(command), explain=explain))


def _print(draw: Callable[["Console"], None]) -> None:
    """What `draw` prints, without the blanks that fill tables up."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS)
    with console.capture() as captured:
        draw(console)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def gpus(*, as_json: bool) -> None:
    """List the GPUs that are known, with the memory that vLLM finds on them."""
    if as_json:
        listing = [
            {"product": gpu.product, "memoryBytes": gpu.memory_bytes} for gpu in known_gpus()
        ]
        click.echo(json.dumps(listing, indent=2))
        return
    from kvarn.planner.report import print_gpus  # noqa: PLC0415

    _print(lambda console: print_gpus(console, known_gpus()))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(*, as_json: bool) -> None:
    """List the models whose shapes are built in, for planning without a network."""
    if as_json:
        listing = {name: shape.to_dict() for name, shape in known_models().items()}
        click.echo(json.dumps(listing, indent=2))
        return
    from kvarn.planner.report import print_models  # noqa: PLC0415

    _print(lambda console: print_models(console, known_models()))


@main.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of SHELL: `eval "$(kvarn completion bash)"`."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"click completes no {shell}")
    click.echo(kind(main, {}, "kvarn", "_KVARN_COMPLETE").source())


if __name__ == "__main__":
    main(prog_name="kvarn")
