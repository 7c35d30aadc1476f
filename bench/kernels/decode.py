"""One decode step of one layer over random tiles: what it should give, and what ours gives."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kvarn.format.layout import TILE_TOKENS, TileFormat, TileLayout
from kvarn.format.packing import arrays, decode
from kvarn.format.reference import dequantise
from kvarn.kernels.batch import Batch, LayerCache
from kvarn.kernels.triton import attend_and_store, prepare
from kvarn.kernels.triton.arguments import Attention
from kvarn.kernels.triton.attention import attend
from kvarn.kernels.triton.parts import Cut
from kvarn.kernels.triton.step import Step

POOL_BYTES = 2**29
"""Least size of the pages that calls choose theirs from, so that none finds its own in the L2."""

CALLS = 8
"""Calls of a timing, each with pages of its own."""

OWN_TOKENS = TILE_TOKENS // 2
"""Tokens of a sequence's own tile: what they are on average."""


@dataclass(frozen=True)
class Shape:
    """A decode step.

    Attributes:
        contexts: tokens of each sequence in packed tiles; :data:`OWN_TOKENS` follow.
        kv_heads: KV heads.
        group: query heads of each.
        head_dim: channels.
    """

    contexts: tuple[int, ...]
    kv_heads: int = 8
    group: int = 4
    head_dim: int = 128

    @classmethod
    def even(cls, sequences: int, context: int, **others: int) -> "Shape":
        """Sequences of one length."""
        return cls((context,) * sequences, **others)

    @property
    def lengths(self) -> tuple[int, ...]:
        """All tokens of each sequence."""
        return tuple(context + OWN_TOKENS for context in self.contexts)

    @property
    def name(self) -> str:
        """For tables, such as 64×8192 g4 d128."""
        lengths = set(self.contexts)
        longest = str(*lengths) if len(lengths) == 1 else f"{min(lengths)}–{max(lengths)}"
        return f"{len(self.contexts)}×{longest} g{self.group} d{self.head_dim}"

    @property
    def scale(self) -> float:
        """Factor of the scores."""
        scale: float = self.head_dim**-0.5
        return scale

    def rows(self, heads: int) -> torch.Tensor:
        """A random row of each sequence and head."""
        shape = (len(self.contexts), heads, self.head_dim)
        return torch.randn(shape, dtype=torch.bfloat16, device="cuda")

    def tables(self, page_tokens: int, token_bytes: int) -> list[torch.Tensor]:
        """Pages of all sequences, ``[sequences, ·]``, for each call; page 0 is nobody's.

        Args:
            page_tokens: of a page.
            token_bytes: of all heads.
        """
        width = -(-max(self.lengths) // page_tokens)
        count = len(self.lengths) * width
        pool = max(count, POOL_BYTES // (page_tokens * token_bytes))
        return [
            torch.randperm(pool, device="cuda")[:count].int().view(-1, width) + 1
            for _ in range(CALLS)
        ]


class Ours:
    """The step in one of our formats."""

    def __init__(self, shape: Shape, tile_format: TileFormat) -> None:
        self.shape = shape
        self.layout = TileLayout(tile_format, shape.head_dim)
        tables = shape.tables(TILE_TOKENS, self.layout.bytes_per_token * shape.kv_heads)
        sequences = len(shape.contexts)
        starts = torch.arange(sequences + 1, dtype=torch.int32, device="cuda")
        lengths = torch.tensor(shape.lengths, dtype=torch.int32, device="cuda")
        self.steps = [
            prepare(
                Batch(
                    starts=starts,
                    lengths=lengths,
                    table=table,
                    tokens=sequences,
                    most_new=1,
                    longest=max(shape.lengths),
                )
            )
            for table in tables
        ]
        pages = 1 + max(int(table.max()) for table in tables)
        tails = torch.randn(
            (sequences + 1, shape.kv_heads, TILE_TOKENS, 2 * shape.head_dim),
            dtype=torch.bfloat16,
            device="cuda",
        )
        self.cache = LayerCache(
            layout=self.layout,
            packed=_random_pages(self.layout, pages, shape.kv_heads),
            tail=tails,
            tail_page=starts[1:].clone(),
        )
        query = shape.rows(shape.kv_heads * shape.group)
        self.attention = Attention(
            query=query,
            keys=shape.rows(shape.kv_heads),
            values=shape.rows(shape.kv_heads),
            out=torch.full_like(query, torch.nan),
            scale=shape.scale,
            soft_cap=0.0,
        )

    @property
    def moved_bytes(self) -> int:
        """Bytes that attention must read."""
        shape = self.shape
        tiles = sum(shape.contexts) // TILE_TOKENS
        own = len(shape.contexts) * OWN_TOKENS * 2 * shape.head_dim * 2
        return shape.kv_heads * (tiles * self.layout.tile_bytes + own)

    def attend(self, cut: Cut | None = None) -> list[Callable[[], object]]:
        """Calls of attention alone."""
        return [self._attend(step, cut) for step in self.steps]

    def _attend(self, step: Step, cut: Cut | None) -> Callable[[], object]:
        return lambda: attend(step, self.cache, self.attention, cut=cut)

    def all(self) -> list[Callable[[], object]]:
        """Calls of attention with storing, and writing the tails."""
        return [self._all(step) for step in self.steps]

    def _all(self, step: Step) -> Callable[[], object]:
        asked = self.attention
        return lambda: attend_and_store(
            step,
            self.cache,
            query=asked.query,
            keys=asked.keys,
            values=asked.values,
            scale=asked.scale,
            out=asked.out,
        )

    def error(self) -> float:
        """Relative error of the first call against float64, the output poisoned before."""
        self.attention.out.fill_(torch.nan)
        self.attend()[0]()
        want = torch.stack([self._wanted(index) for index in range(len(self.shape.contexts))])
        got = self.attention.out.double()
        return float((got - want).norm() / want.norm())

    def _wanted(self, index: int) -> torch.Tensor:
        """Result of a sequence's query ``[Hq, D]`` in float64."""
        shape, asked, cache = self.shape, self.attention, self.cache
        tiles = shape.contexts[index] // TILE_TOKENS
        pages = self.steps[0].batch.table[index, :tiles].long()
        stored = dequantise(self.layout, decode(self.layout, cache.packed[pages].flatten(2)))
        own = cache.tail[cache.tail_page[index], :, : OWN_TOKENS - 1].chunk(2, dim=-1)
        new = (asked.keys[index], asked.values[index])
        keys, values = (
            torch.cat([old.transpose(0, 1).flatten(1, 2), tail, row[:, None]], dim=1).double()
            for old, tail, row in zip(stored, own, new, strict=True)
        )
        query = asked.query[index].double().view(shape.kv_heads, shape.group, -1)
        weights = (query @ keys.mT * shape.scale).softmax(dim=-1)
        return (weights @ values).flatten(0, 1)


def _random_pages(layout: TileLayout, pages: int, heads: int) -> torch.Tensor:
    """Tiles ``[pages, H, 128, bytes]`` with any codes, and scales as those of a model's."""
    shape = (pages, heads, layout.tile_bytes)
    tiles = torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
    for name, array in arrays(layout, tiles).items():
        if name.endswith("token_scale"):
            array.uniform_(0.5, 1.5)
        elif name.endswith("channel_scale"):
            array.uniform_(0.05, 0.2)
        elif name.endswith("mean"):
            array.normal_(0.0, 0.1)
    return tiles.view(pages, heads, TILE_TOKENS, -1)
