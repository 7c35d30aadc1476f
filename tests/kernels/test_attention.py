"""Steps over pages give what the reference gives for whole sequences, however they are cut."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kvarn.format.layout import FORMATS, HEAD_DIMS, TILE_TOKENS, TileLayout
from kvarn.format.packing import decode
from kvarn.format.reference import attention, quantise
from kvarn.kernels.batch import Batch, LayerCache
from kvarn.kernels.plain import attend_and_store, prepare

BLOCKS = 64
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class Model:
    """Random queries, keys and values of some sequences, and poisoned pages to run them through."""

    layout: TileLayout
    lengths: list[int]
    kv_heads: int = 2
    group: int = 2
    dtype: torch.dtype = torch.float32
    seed: int = 0

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        heads, channels = self.kv_heads, self.layout.head_dim

        def rows(heads: int) -> list[torch.Tensor]:
            return [
                torch.randn(length, heads, channels, generator=generator).to(DEVICE, self.dtype)
                for length in self.lengths
            ]

        self.query, self.keys, self.values = (rows(n) for n in (heads * self.group, heads, heads))
        self.out = [torch.full_like(query, torch.nan) for query in self.query]
        self._take_pages(generator)

    @property
    def scale(self) -> float:
        scale: float = self.layout.head_dim**-0.5
        return scale

    def _take_pages(self, generator: torch.Generator) -> None:
        heads, channels = self.kv_heads, self.layout.head_dim
        count, width = len(self.lengths), -(-max(self.lengths) // TILE_TOKENS)
        pages = torch.randperm(BLOCKS - 1, generator=generator) + 1
        self.table = pages[: count * width].view(count, width)
        self.tail_page = pages[-count:].to(DEVICE)
        packed_shape = (BLOCKS, heads, TILE_TOKENS, self.layout.bytes_per_token)
        self.packed = torch.full(packed_shape, 255, dtype=torch.uint8, device=DEVICE)
        tail_shape = (BLOCKS, heads, TILE_TOKENS, 2 * channels)
        self.tail = torch.full(tail_shape, torch.nan, dtype=self.dtype, device=DEVICE)

    def run(self, batch: dict[int, tuple[int, int]]) -> None:
        """One step: for each sequence, the tokens from which to which."""
        members = list(batch)

        def joined(rows: list[torch.Tensor]) -> torch.Tensor:
            return torch.cat([rows[member][slice(*batch[member])] for member in members])

        counts = torch.tensor([0] + [end - begin for begin, end in batch.values()])
        lengths = torch.tensor([end for _, end in batch.values()])
        step = prepare(
            Batch(
                starts=counts.cumsum(0).to(DEVICE),
                lengths=lengths.to(DEVICE),
                table=self.table[members].to(DEVICE),
                tokens=int(counts.sum()),
                most_new=int(counts.max()),
                longest=int(lengths.max()),
            )
        )
        out = torch.full_like(joined(self.query), torch.nan)
        cache = LayerCache(self.layout, self.packed, self.tail, self.tail_page[members])
        attend_and_store(
            step,
            cache,
            query=joined(self.query),
            keys=joined(self.keys),
            values=joined(self.values),
            scale=self.scale,
            out=out,
        )
        for member, rows in zip(members, out.split(counts[1:].tolist()), strict=True):
            self.out[member][slice(*batch[member])] = rows

    def check(self) -> None:
        exact = self.dtype == torch.float32 and DEVICE.type == "cpu"
        tolerance = 1e-4 if exact else 3e-2  # a rounded product may flip a code
        for query, keys, values, out in zip(
            self.query, self.keys, self.values, self.out, strict=True
        ):
            want = attention(self.layout, query, keys, values, self.scale)
            torch.testing.assert_close(out.float(), want, atol=tolerance, rtol=tolerance)


def chunks(length: int, size: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, length, size):
        yield begin, min(begin + size, length)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_a_whole_prompt_and_then_single_tokens(name: str, head_dim: int) -> None:
    model = Model(TileLayout(FORMATS[name], head_dim), [260, 131])
    model.run({0: (0, 250), 1: (0, 126)})
    for token in range(10):
        batch = {0: (250 + token, 251 + token)}
        if token < 5:
            batch[1] = (126 + token, 127 + token)
        model.run(batch)
    model.check()


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(FORMATS)),
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 300), min_size=4, max_size=4),
    group=st.sampled_from([1, 3, 8]),
    seed=st.integers(0, 1000),
)
def test_any_lengths_in_any_chunks(
    name: str, lengths: list[int], sizes: list[int], group: int, seed: int
) -> None:
    model = Model(TileLayout(FORMATS[name], 64), lengths, group=group, seed=seed)
    plans = {member: list(chunks(length, sizes[member])) for member, length in enumerate(lengths)}
    while batch := {member: plan.pop(0) for member, plan in plans.items() if plan}:
        model.run(batch)
    model.check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_models(dtype: torch.dtype) -> None:
    model = Model(TileLayout(FORMATS["kvarn_k4v2_g128"], 128), [300], dtype=dtype)
    for chunk in chunks(300, 100):
        model.run({0: chunk})
    model.check()


def test_closed_tiles_are_packed_and_nothing_else_is_written() -> None:
    model = Model(TileLayout(FORMATS["kvarn_k4v2_g128"], 64), [300])
    model.run({0: (0, 300)})
    layout, pages = model.layout, model.table[0, :2]
    want = quantise(
        layout,
        *(
            rows[0][:256].view(2, TILE_TOKENS, 2, 64).transpose(1, 2)
            for rows in (model.keys, model.values)
        ),
    )
    got = decode(layout, model.packed[pages].flatten(-2))
    assert all(torch.equal(got[name], want[name]) for name in layout.fields)
    others = [page for page in range(BLOCKS) if page not in pages.tolist()]
    assert bool((model.packed[others] == 255).all())
    assert model.tail.isfinite().sum() == 44 * 2 * 2 * 64


def test_a_sequence_may_read_a_tile_that_another_completes_in_the_same_step() -> None:
    """Two sequences share their first page; the reader comes first in the batch."""
    model = Model(TileLayout(FORMATS["kvarn_k4v2_g128"], 64), [140, 140])
    for rows in (model.query, model.keys, model.values):
        rows[0][:128] = rows[1][:128]
    model.table[0, 0] = model.table[1, 0]
    model.run({0: (128, 140), 1: (0, 140)})
    model.out[0][:128] = model.out[1][:128]
    model.check()


def test_dummy_batches_write_nothing() -> None:
    """Their tables point at the null page."""
    model = Model(TileLayout(FORMATS["kvarn_k4v2_g128"], 64), [300])
    model.table[:] = 0
    model.tail_page[:] = 0
    model.run({0: (0, 300)})
    assert bool((model.packed == 255).all())
    assert bool(model.tail.isnan().all())
