"""Time of the store on a GPU: `python -m bench.kernels.store`.

Two kinds of step: a prompt's, in which every tile is complete, and a decode step, in which none or
all of 64 sequences complete one. Times are those of CUDA graph replays. The share is of the
bandwidth of an elementwise copy in the same run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table

from bench.kernels.clock import copy_bandwidth, microseconds
from kvarn.format.layout import FORMATS, TILE_TOKENS, TileLayout
from kvarn.kernels.batch import Batch, LayerCache
from kvarn.kernels.triton.step import prepare
from kvarn.kernels.triton.store import store_tiles
from kvarn.kernels.triton.tail import write_tails

HEADS, HEAD_DIM = 8, 128
SEQUENCES, TILES = 64, 8
CALLS = 8


@dataclass(frozen=True)
class Work:
    """A call to time.

    Attributes:
        name: what it does.
        call: does it.
        moved_bytes: read and written at the least.
    """

    name: str
    call: Callable[[], object]
    moved_bytes: int


def rows(tokens: int) -> torch.Tensor:
    """Keys or values of a step."""
    return torch.randn(tokens, HEADS, HEAD_DIM, dtype=torch.bfloat16, device="cuda")


def empty_cache(layout: TileLayout) -> LayerCache:
    """Pages for all tiles, and one tail for each sequence."""
    blocks = SEQUENCES * TILES + 1
    packed = torch.zeros(
        blocks, HEADS, TILE_TOKENS, layout.bytes_per_token, dtype=torch.uint8, device="cuda"
    )
    tail = rows((SEQUENCES + 1) * TILE_TOKENS * 2).view(-1, HEADS, TILE_TOKENS, 2 * HEAD_DIM)
    return LayerCache(layout, packed, tail, torch.arange(1, SEQUENCES + 1, device="cuda"))


def batch(new: int, length: int) -> Batch:
    """As many new tokens for each sequence; pages in no order."""
    pages = torch.randperm(SEQUENCES * TILES, device="cuda").int() + 1
    return Batch(
        starts=torch.arange(0, SEQUENCES + 1, dtype=torch.int32, device="cuda") * new,
        lengths=torch.full((SEQUENCES,), length, dtype=torch.int32, device="cuda"),
        table=pages.view(SEQUENCES, TILES),
        tokens=SEQUENCES * new,
        most_new=new,
        longest=length,
    )


def works(name: str) -> Iterator[Work]:
    """What is timed for a format."""
    layout = TileLayout(FORMATS[name], HEAD_DIM)
    cache = empty_cache(layout)
    faults = torch.zeros(1, dtype=torch.int64, device="cuda")
    whole = TILES * TILE_TOKENS
    tile_bytes = layout.tile_bytes + 2 * 2 * TILE_TOKENS * HEAD_DIM
    for label, new, length, tiles in (
        ("prompts: 512 tiles", whole, whole, SEQUENCES * TILES),
        ("decode: 64 tiles", 1, whole, SEQUENCES),
        ("decode: no tile", 1, whole - 1, 0),
    ):
        keys, values = rows(SEQUENCES * new), rows(SEQUENCES * new)
        step = prepare(batch(new, length))

        def store(step=step, keys=keys, values=values) -> None:  # type: ignore[no-untyped-def]
            store_tiles(step, cache, keys=keys, values=values, faults=faults)

        def write(step=step, keys=keys, values=values) -> None:  # type: ignore[no-untyped-def]
            write_tails(step, cache, keys=keys, values=values)

        yield Work(f"{name}, {label}", store, tiles * HEADS * tile_bytes)
        if tiles == 0:
            yield Work(f"{name}, decode: tails", write, 4 * keys.numel() * 2)


def main() -> None:
    """Print the table."""
    table = Table("work", "µs", "GB/s", "share of copy")
    ceiling = copy_bandwidth()
    for work in (work for name in FORMATS for work in works(name)):
        time = microseconds([work.call] * CALLS)
        rate = work.moved_bytes / time * 1e6
        table.add_row(work.name, f"{time:.1f}", f"{rate / 1e9:.0f}", f"{rate / ceiling:.0%}")
    Console().print(torch.cuda.get_device_name(), "torch", torch.__version__)
    Console().print(table)


if __name__ == "__main__":
    main()
