"""Whatever steps launch is compiled by the rehearsal, and nothing else is."""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from random import Random
from typing import Any

import pytest
import torch
import triton

from kvarn.format.layout import FORMATS, TILE_TOKENS, TileLayout
from kvarn.kernels.batch import Batch, Counts, LayerCache
from kvarn.kernels.triton.attention import attend_and_store
from kvarn.kernels.triton.rehearsal import Layer, rehearse
from kvarn.kernels.triton.step import Step, prepare
from tests.kernels.compiled import binaries

LAYER = Layer(
    layout=TileLayout(FORMATS["kvarn_k4v2_g128"], 128),
    model=torch.bfloat16,
    device=torch.device("cpu"),
    heads=8,
    group=4,
    soft_cap=0.0,
    tokens=2048,
    sequences=256,
)

LONG = 40_000
"""Tokens that do not fit into scratch memory at once."""


class Server:
    """Steps on tensors such as the engine's: pages in a pool, the first rows of long buffers."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.random = Random(0)
        layout, blocks, layers = layer.layout, 4, 6
        tile = (layer.heads, TILE_TOKENS)
        pages = torch.zeros(blocks, layers, *tile, layout.bytes_per_token, dtype=torch.uint8)
        self.packed = pages[:, 3]
        wide = 2 * layout.head_dim
        block = pages.view(layer.model).flatten(1)
        strides = (block.stride(0), TILE_TOKENS * wide, wide, 1)
        self.tail = block.as_strided((blocks, *tile, wide), strides)
        heads = (2 + layer.group) * layer.heads
        self.rows = torch.zeros(layer.tokens, heads, layout.head_dim, dtype=layer.model)
        self.numbers = torch.zeros(2, 1024, dtype=torch.int32)
        self.faults = torch.zeros(1, dtype=torch.int64)

    def steps(self) -> list[list[tuple[int, int]]]:
        """New tokens of each sequence of a step, and those before them."""
        draw = self.random.randrange
        many = (1, 2, 3, 16, 17, 64, 100, 255, 256)
        single = [[(1, draw(9000)) for _ in range(number)] for number in many]
        few = [
            [(draw(1, most + 1), draw(9000)) for _ in range(number)] + [(most, draw(9000))]
            for most, number in zip((2, 3, 4, 5, 6, 7, 8), many, strict=False)
        ]
        prompts = [
            [(draw(9, 500), draw(2) * draw(9000)) for _ in range(draw(1, 4))]
            + [(1, draw(9000)) for _ in range(draw(40))]
            for _ in range(30)
        ]
        long = [[(draw(9, 500), draw(LONG, 3 * LONG))] for _ in range(6)]
        return single + few + prompts + long

    def batch(self, step: Sequence[tuple[int, int]]) -> Batch:
        new = [count for count, _ in step]
        lengths = [sum(part) for part in step]
        starts, all_lengths = self.numbers
        starts[: len(step) + 1] = torch.tensor([0, *accumulate(new)])
        all_lengths[: len(step)] = torch.tensor(lengths)
        least = -(-max(lengths) // TILE_TOKENS)
        table = torch.zeros(1024, least + self.random.randrange(3), dtype=torch.int32)
        return Batch(
            starts=starts[: len(step) + 1],
            lengths=all_lengths[: len(step)],
            table=table[: len(step)],
            tokens=sum(new),
            most_new=max(new),
            longest=max(lengths),
            counts=Counts(new, lengths) if max(new) > 1 else None,
        )

    def run(self, attend: partial[None], parts: Sequence[tuple[int, int]], column: int) -> None:
        batch, layer = self.batch(parts), self.layer
        tail_table = torch.ones(len(parts), self.random.randrange(8, 70), dtype=torch.int32)
        tail_page = tail_table[:, column]
        cache = LayerCache(layer.layout, self.packed, self.tail, tail_page, self.faults)
        query, keys, values = self.rows[: batch.tokens].split(
            (layer.group * layer.heads, layer.heads, layer.heads), dim=1
        )
        if self.random.randrange(2):  # as models' rotary embeddings leave them, in place or not
            query, keys = query.contiguous(), keys.contiguous()
        attend(
            prepare(batch),
            cache,
            query=query,
            keys=keys,
            values=values,
            scale=0.088,
            out=torch.empty_like(query, memory_format=torch.contiguous_format),
            soft_cap=layer.soft_cap,
        )


def flash(*, q: torch.Tensor, out: torch.Tensor, **_options: Any) -> tuple[torch.Tensor, ...]:
    """Attends nothing: what it would read is what kernels wrote that did not run."""
    return out, torch.zeros(q.shape[1], q.shape[0])


def prompts(_head_dim: int) -> Any:
    return flash


def done(_step: Step, *_args: object, **_options: object) -> bool:
    """As kernels in CUDA C++ say it."""
    return True


OPTIONS = {
    "Triton": {},
    "a library and CUDA C++": {"prompts": prompts, "store": done, "single_tokens": done},
    "batch-invariant": {"batch_invariant": True, "store": done},
}


def serve(options: str) -> None:
    """A rehearsal, and then steps that launch the same kernels."""
    attend = partial(attend_and_store, **OPTIONS[options])
    launched = triton.runtime.driver.active.launched
    rehearse(attend, LAYER)
    rehearsed = {id(binary): binary.name for binary in launched}
    launched.clear()
    server = Server(LAYER)
    for step in server.steps():
        for column in (server.random.choice((0, 4)), server.random.choice((1, 2, 3, 5, 6, 7))):
            server.run(attend, step, column)
    served = {id(binary): binary.name for binary in launched}
    missing = sorted(served[each] for each in served.keys() - rehearsed.keys())
    wasted = sorted(rehearsed[each] for each in rehearsed.keys() - served.keys())
    assert (missing, wasted) == ([], []), (missing, wasted)


@pytest.mark.parametrize("options", OPTIONS)
def test_steps_compile_nothing_after_a_rehearsal(options: str) -> None:
    """Batches, lengths, chunks, histories and block tables of all sizes."""
    assert binaries(90, serve, options)
