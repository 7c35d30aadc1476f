"""Planned against measured, here: `python -m bench.startup MODEL --gpu H100 [--format …]`.

Plans each MODEL for each format, starts vLLM with the plan's own flags (the weights are made up),
and sets what it reports of its cache beside the plan. Needs the accelerator that it plans for.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import click

from bench.ending import started, unwind_on_sigterm
from bench.planner_refusal import refusals
from kvarn.planner import FORMATS, Accelerator, Limits, Plan, plan, read_shape

REPORTER = Path(__file__).with_name("measured_cache.py")
MEMORY = re.compile(r"Model loading took|Available KV cache|peak activation|CUDA graph|GiB")
"""Lines in which vLLM accounts for its memory; they go to standard error."""
START_SECONDS = 600
"""A first start compiles the model."""
CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_CI_ENV": "1",
    "OMP_NUM_THREADS": "1",
}


def measure(model: Path, made: Plan, *options: str) -> dict[str, Any]:
    """What vLLM reports of its cache when it is started with the plan's flags.

    Raises:
        click.ClickException: it did not start; the message ends with its last lines.
    """
    command = [sys.executable, str(REPORTER), "--model", str(model), "--skip-tokenizer-init"]
    eager = ("--enforce-eager",) if made.accelerator.is_cpu else ()
    with started(
        [*command, *eager, *options, *made.vllm_flags()],
        env=os.environ | (CPU_ENVIRONMENT if made.accelerator.is_cpu else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            output, errors = process.communicate(timeout=START_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise click.ClickException(f"vLLM did not start in {START_SECONDS} seconds") from error
    if process.returncode:
        raise click.ClickException(f"vLLM did not start: {errors[-4000:]}")
    for line in filter(MEMORY.search, (output + errors).splitlines()):
        click.echo(line, err=True)
    # The engine's own process may still print when the report is out.
    report = next(line for line in reversed(output.splitlines()) if line.startswith("{"))
    found: dict[str, Any] = json.loads(report)
    return found


def compare(model: Path, gpu: Accelerator, cache_format: str, limits: Limits) -> dict[str, Any]:
    """One model and format: planned and measured tokens and bytes, and the error of the tokens."""
    made = plan(read_shape(model), gpu, limits=limits, cache_format=cache_format)
    with as_folder(model) as folder:
        found = measure(folder, made, "--load-format", "dummy")
    return {
        "model": model.stem if model.is_file() else model.name,
        "gpu": gpu.product,
        "format": cache_format,
        "flags": list(made.vllm_flags()),
        "planned": made.cache_tokens,
        "measured": found["tokens"],
        "errorPermille": round(1000 * (made.cache_tokens / found["tokens"] - 1)),
    }


@contextmanager
def as_folder(model: Path) -> Iterator[Path]:
    """The model's folder; one made of its config where that alone is given."""
    if model.is_dir():
        yield model
        return
    with TemporaryDirectory() as folder:
        copyfile(model, Path(folder) / "config.json")
        yield Path(folder)


@click.command()
@click.argument(
    "models", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="MODEL"
)
@click.option("--gpu", required=True, help="What this machine has, as in `kvarn gpus`, or cpu.")
@click.option("--format", "formats", multiple=True, type=click.Choice(list(FORMATS)))
@click.option("--max-model-len", type=click.IntRange(min=1), default=8192, show_default=True)
@click.option("--max-num-seqs", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@refusals()
def main(
    *,
    models: Sequence[Path],
    gpu: str,
    formats: Sequence[str],
    max_model_len: int,
    max_num_seqs: int,
    as_json: bool,
) -> None:
    """Set what vLLM measures on this machine beside the plan for MODELs, folders or config.json."""
    unwind_on_sigterm()
    limits = Limits(max_model_tokens=max_model_len, max_sequences=max_num_seqs)
    line = "{model:<32} {format:<16} planned {planned:>12,}  measured {measured:>12,}  "
    for name, model in product(formats or list(FORMATS), models):
        row = compare(model, Accelerator.find(gpu), name, limits)
        text = json.dumps(row) if as_json else f"{line}{{errorPermille:+d}} ‰".format(**row)
        click.echo(text)


if __name__ == "__main__":
    main()
