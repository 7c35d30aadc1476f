"""Tokens that a cache holds against bf16's, by length of the sequences.

    python -m bench.capacity [CONFIG…] [--json]

Open tiles and pages of many layers side by side cost a short sequence more than a long one, so the
ratio grows with the length. CONFIG is a model's `config.json`; without one, the shapes beside this
module. The blocks are counted as vLLM counts them; `python -m bench.startup` compares that with a
real start.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from bench.planner_refusal import refusals
from kvarn.planner import FORMATS, Accelerator, ModelShape, read_shape
from kvarn.planner.cache import cache_layout
from kvarn.planner.version import LATEST

SHAPES = sorted(Path(__file__).with_name("models").glob("*.json"))
LENGTHS = (1024, 4096, 16_384, 65_536)
GPU = "H100"
POOL_BYTES = 48 << 30
"""Large beside a block, so that the last one, cut short, does not matter."""

Ratios = Mapping[str, Mapping[str, float]]


def held_tokens(shape: ModelShape, cache_format: str, tokens: int) -> float:
    """Tokens of sequences of this length that the pool holds at once."""
    gpu = Accelerator.find(GPU, count=1)
    layout = cache_layout(shape, gpu, FORMATS[cache_format])
    blocks = layout.request_blocks(tokens, in_flight_tokens=0)
    return (layout.blocks(POOL_BYTES) - 1) / blocks * tokens


def ratios(shape: ModelShape) -> Ratios:
    """Format, then length, to tokens against bf16's; formats that do not serve it left out."""
    gpu = Accelerator.find(GPU)
    serving = [name for name, each in FORMATS.items() if not each.refusal(shape, gpu, LATEST)]
    return {
        name: {
            str(tokens): round(
                held_tokens(shape, name, tokens) / held_tokens(shape, "bf16", tokens), 2
            )
            for tokens in LENGTHS
        }
        for name in serving
        if name != "bf16"
    }


@click.command()
@click.argument("configs", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@refusals()
def main(configs: Sequence[Path], as_json: bool) -> None:
    """Print tokens of cache against bf16 by model, format and length of the sequences."""
    found = {config.stem: ratios(read_shape(config)) for config in configs or SHAPES}
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for model, table in found.items():
        _print(model, table)


def _print(model: str, found: Ratios) -> None:
    table = Table("format", *(f"{tokens:,}" for tokens in LENGTHS), title=f"{model}: times bf16's")
    for name, by_length in found.items():
        table.add_row(name, *(f"{ratio:.2f}" for ratio in by_length.values()))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
