"""Planned against measured, here: `python -m bench.startup MODEL --gpu H100 [--format …] [--json]`.

Plans MODEL for each format, starts vLLM with the plan's own flags (the weights are made up), and
sets what it reports of its cache beside the plan. Needs the accelerator that it plans for.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from kvarn.planner import FORMATS, Accelerator, Limits, Plan, plan, read_shape

REPORTER = Path(__file__).with_name("measured_cache.py")
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
    done = subprocess.run(
        [*command, *eager, *options, *made.vllm_flags()],
        env=os.environ | (CPU_ENVIRONMENT if made.accelerator.is_cpu else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"vLLM did not start: {done.stderr[-4000:]}")
    # The engine's own process may still print when the report is out.
    report = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
    found: dict[str, Any] = json.loads(report)
    return found


def compare(model: Path, gpu: Accelerator, cache_format: str, limits: Limits) -> dict[str, Any]:
    """One format: planned and measured tokens, and the error in tenths of a percent."""
    made = plan(read_shape(model), gpu, limits=limits, cache_format=cache_format)
    tokens = measure(model, made, "--load-format", "dummy")["tokens"]
    return {
        "format": cache_format,
        "planned": made.cache_tokens,
        "measured": tokens,
        "errorPermille": round(1000 * (made.cache_tokens / tokens - 1)),
    }


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--gpu", required=True, help="What this machine has, as in `kvarn gpus`, or cpu.")
@click.option("--format", "formats", multiple=True, type=click.Choice(list(FORMATS)))
@click.option("--max-model-len", default=8192, show_default=True)
@click.option("--max-num-seqs", default=64, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def main(
    *,
    model: Path,
    gpu: str,
    formats: Sequence[str],
    max_model_len: int,
    max_num_seqs: int,
    as_json: bool,
) -> None:
    """Set what vLLM measures on this machine beside the plan for MODEL, a config's folder."""
    limits = Limits(max_model_tokens=max_model_len, max_sequences=max_num_seqs)
    rows: list[Mapping[str, Any]] = []
    for name in formats or list(FORMATS):
        rows.append(compare(model, Accelerator.find(gpu), name, limits))
        if not as_json:
            click.echo(
                "{format:<16} planned {planned:>12,}  measured {measured:>12,}  "
                "{errorPermille:+d} ‰".format(**rows[-1])
            )
    if as_json:
        click.echo(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
