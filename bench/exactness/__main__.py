"""Exactness on a GPU: `python -m bench.exactness [PART…] [--json FILE]`, with a real vLLM.

What the tests show on a CPU, once more with compiled kernels. *raw*: tiles in float32 must give
the tokens that Hugging Face's attention ranks first. *fast*: what the fastest kernels write must be
as likely to those that do not look at the batch as what these write themselves, but for rounding.
*deep*, *shallow*: under a quantised format and ``VLLM_BATCH_INVARIANT=1``, which makes vLLM's own
operations independent of the batch, tokens and their log-probabilities must not depend on the
schedule by a single bit. The models are random; the shallow one's open tiles are larger than its
packed pages. Each part has a process of its own, because that variable changes vLLM's products for
good, and not for the better in float32. Parts run side by side, on one device.

vLLM must be importable and the plugin need not be installed. FILE is written after every verdict.
The status is 1 if something differs or a part has failed.
"""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from bench.ending import unwind_on_sigterm
from bench.exactness import process
from bench.exactness.verdict import Verdict
from bench.option_types import POSITIVE

PARTS = ("raw", "fast", "deep", "shallow")
LIMIT_SECONDS = 150.0
NO_GPU = (
    "No GPU is seen: the parts run on the CPU, where no kernel is compiled, so less is compared,"
    " and an engine may not be done within --limit."
)


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(PARTS))
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write a record there.")
@click.option(
    "--limit",
    "limit_seconds",
    type=POSITIVE,
    default=LIMIT_SECONDS,
    show_default=True,
    help="Seconds for the start of an engine and the runs in it.",
)
def main(parts: Sequence[str], file: Path | None, limit_seconds: float) -> None:
    """Compare runs token for token; the status is 1 if something differs."""
    unwind_on_sigterm()
    if not torch.cuda.is_available():
        click.echo(NO_GPU, err=True)
    began = time.monotonic()
    found: list[Verdict] = []
    failed: dict[str, str] = {}
    with closing(process.run(tuple(parts) or PARTS, limit_seconds=limit_seconds)) as all_news:
        for part, news in all_news:
            if isinstance(news, Verdict):
                words = f"{news.name}: {news.word}, {news.largest:.1e} nats at most"
                found.append(news)
            else:
                words = f"{part}: FAILED: {news}"
                failed[part] = news
            click.echo(f"{time.monotonic() - began:5.0f} s  {words}", err=True)
            if file:
                file.write_text(_record(found, failed))
    _print(found)
    raise SystemExit(bool(failed) or not all(verdict.holds for verdict in found))


def _record(found: Sequence[Verdict], failed: Mapping[str, str]) -> str:
    about = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "vllm": version("vllm"),
    }
    rows = [{**asdict(verdict), "holds": verdict.holds} for verdict in found]
    return json.dumps({**about, "runs": rows, "failed": dict(failed)}, indent=1) + "\n"


def _print(found: Sequence[Verdict]) -> None:
    table = Table("runs", "tokens", "differ", "largest |Δ log p|", "")
    for verdict in found:
        row = (verdict.name, str(verdict.tokens), str(verdict.differing), f"{verdict.largest:.1e}")
        table.add_row(*row, verdict.word)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
