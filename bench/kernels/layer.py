"""One layer's step over random tiles in one of our formats, and what it should give."""

from collections.abc import Callable
from functools import partial

import torch

from bench.kernels import reference
from bench.kernels.implementation import Implementation
from bench.kernels.shape import DEVICE, Shape
from kvarn.format.layout import TILE_TOKENS, TileFormat, TileLayout
from kvarn.format.packing import arrays, decode
from kvarn.format.reference import dequantise
from kvarn.kernels.batch import Batch, Counts, LayerCache
from kvarn.kernels.triton import prepare
from kvarn.kernels.triton.arguments import Attention
from kvarn.kernels.triton.parts import Cut
from kvarn.kernels.triton.step import Step
from kvarn.kernels.triton.store import store_tiles
from kvarn.kernels.triton.tail import write_tails

Calls = list[Callable[[], object]]


class Layer:
    """A step; each of its calls has pages of its own."""

    def __init__(
        self, shape: Shape, tile_format: TileFormat, implementation: Implementation
    ) -> None:
        self.shape, self._implementation = shape, implementation
        self.layout = TileLayout(tile_format, shape.head_dim)
        tables = shape.tables(TILE_TOKENS, self.layout.bytes_per_token * shape.kv_heads)
        self.steps = [prepare(_batch(shape, table)) for table in tables]
        pages = 1 + max(int(table.max()) for table in tables)
        sequences = len(shape.lengths)
        tails = torch.randn(
            (sequences + 1, shape.kv_heads, TILE_TOKENS, 2 * shape.head_dim),
            dtype=torch.bfloat16,
            device=DEVICE,
        )
        self.cache = LayerCache(
            layout=self.layout,
            packed=_random_pages(self.layout, pages, shape.kv_heads),
            tail=tails,
            tail_page=torch.arange(1, sequences + 1, dtype=torch.int32, device=DEVICE),
        )
        query = shape.rows(shape.query_heads)
        self.attention = Attention(
            query=query,
            keys=shape.rows(shape.kv_heads),
            values=shape.rows(shape.kv_heads),
            out=torch.full_like(query, torch.nan),
            scale=shape.scale,
            soft_cap=0.0,
        )

    @property
    def _row_bytes(self) -> int:
        """A token's key and value as the model made them, of one head."""
        return 2 * self.shape.head_dim * self.cache.tail.element_size()

    @property
    def read_bytes(self) -> int:
        """Bytes that attention must read of keys and values."""
        before = [
            length - new for length, new in zip(self.shape.lengths, self.shape.new, strict=True)
        ]
        tiles = sum(each // TILE_TOKENS for each in before)
        rows = sum(self.shape.lengths) - tiles * TILE_TOKENS
        return self.shape.kv_heads * (tiles * self.layout.tile_bytes + rows * self._row_bytes)

    @property
    def stored_bytes(self) -> int:
        """Bytes that must be read and written to store the step's tokens."""
        open_rows = sum(
            min(length % TILE_TOKENS, new)
            for length, new in zip(self.shape.lengths, self.shape.new, strict=True)
        )
        tile_bytes = self.layout.tile_bytes + TILE_TOKENS * self._row_bytes
        closed = sum(self.closed(index) for index in range(len(self.shape.lengths)))
        return self.shape.kv_heads * (closed * tile_bytes + 2 * open_rows * self._row_bytes)

    @property
    def moved_bytes(self) -> int:
        """Bytes of what is timed: attention alone in decoding, the whole step of prompts."""
        if self.shape.stage == "decode":
            return self.read_bytes
        return self.read_bytes + self.stored_bytes + 2 * self.attention.query.nbytes

    def closed(self, index: int) -> int:
        """Tiles that a sequence completes in the step."""
        length, new = self.shape.lengths[index], self.shape.new[index]
        return length // TILE_TOKENS - (length - new) // TILE_TOKENS

    def timed(self) -> Calls:
        """Calls of what is timed."""
        return self.attend() if self.shape.stage == "decode" else self.whole()

    def attend(self, cut: Cut | None = None) -> Calls:
        """Calls of attention alone."""
        return [partial(self.attend_step, step, cut=cut) for step in self.steps]

    def store(self) -> Calls:
        """Calls that store complete tiles and write the tails."""
        return [partial(self._store, step) for step in self.steps]

    def whole(self) -> Calls:
        """Calls of all that a layer does, as in the engine."""
        return [partial(self.work, step) for step in self.steps]

    def attend_step(self, step: Step, *, cut: Cut | None = None) -> None:
        """Attend a step's tokens, and do no more than comes with it."""
        self._implementation.attend(step, self.cache, self.attention, cut=cut)

    def work(self, step: Step) -> None:
        """Do all that a layer does in a step."""
        asked = self.attention
        self._implementation.work(
            step,
            self.cache,
            query=asked.query,
            keys=asked.keys,
            values=asked.values,
            scale=asked.scale,
            out=asked.out,
        )

    def _store(self, step: Step) -> None:
        rows = {"keys": self.attention.keys, "values": self.attention.values}
        store = self._implementation.store
        if not (store and store(step, self.cache, **rows)):
            store_tiles(step, self.cache, **rows)
        write_tails(step, self.cache, **rows)

    def error(self) -> float:
        """Relative error of the whole step against float64, the output poisoned before."""
        raw = [self.raw(index) for index in range(len(self.shape.lengths))]
        self.attention.out.fill_(torch.nan)
        self.whole()[0]()
        want = torch.cat([self._wanted(index, *rows) for index, rows in enumerate(raw)])
        return reference.relative_error(self.attention.out, want)

    def raw(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values from a sequence's first open tile on, as the model made them.

        To be asked before the step, which overwrites tails; ``[·, H, D]`` each.
        """
        length, new = self.shape.lengths[index], self.shape.new[index]
        old = self.cache.tail[self.cache.tail_page[index], :, : (length - new) % TILE_TOKENS]
        end = sum(self.shape.new[: index + 1])
        keys, values = (
            torch.cat([tail.transpose(0, 1), rows[end - new : end]])
            for tail, rows in zip(
                old.chunk(2, dim=-1), (self.attention.keys, self.attention.values), strict=True
            )
        )
        return keys, values

    def tiles(self, index: int, first: int = 0) -> torch.Tensor:
        """A sequence's tiles after the first call, from one on: uint8 ``[·, H, bytes]``."""
        count = self.shape.lengths[index] // TILE_TOKENS
        pages = self.steps[0].batch.table[index, first:count].long()
        return self.cache.packed[pages].flatten(2)

    def _wanted(self, index: int, raw_keys: torch.Tensor, raw_values: torch.Tensor) -> torch.Tensor:
        """Results of a sequence's queries: own tile raw, every earlier one as it is stored."""
        length, new = self.shape.lengths[index], self.shape.new[index]
        stored_keys, stored_values = (
            rows.transpose(1, 2).flatten(0, 1)
            for rows in dequantise(self.layout, decode(self.layout, self.tiles(index)))
        )
        position = torch.arange(length - new, length, device=DEVICE)[:, None]
        stored = torch.arange(len(stored_keys), device=DEVICE)
        raw = torch.arange(length - len(raw_keys), length, device=DEVICE)
        own = position // TILE_TOKENS
        visible = torch.cat(
            [stored // TILE_TOKENS < own, (raw // TILE_TOKENS == own) & (raw <= position)], dim=1
        )
        end = sum(self.shape.new[: index + 1])
        return reference.attention(
            self.attention.query[end - new : end],
            torch.cat([stored_keys, raw_keys]),
            torch.cat([stored_values, raw_values]),
            visible,
            self.shape.scale,
        )


def _batch(shape: Shape, table: torch.Tensor) -> Batch:
    return Batch(
        starts=shape.starts(),
        lengths=shape.lengths_tensor(),
        table=table,
        tokens=shape.tokens,
        most_new=shape.most_new,
        longest=shape.longest,
        counts=Counts(shape.new, shape.lengths),
    )


def _random_pages(layout: TileLayout, pages: int, heads: int) -> torch.Tensor:
    """Tiles ``[pages, H, 128, bytes]`` with any codes, and scales as those of a model's."""
    shape = (pages, heads, layout.tile_bytes)
    tiles = torch.randint(0, 256, shape, dtype=torch.uint8, device=DEVICE)
    for name, array in arrays(layout, tiles).items():
        if name.endswith("token_scale"):
            array.uniform_(0.5, 1.5)
        elif name.endswith("channel_scale"):
            array.uniform_(0.05, 0.2)
        elif name.endswith("mean"):
            array.normal_(0.0, 0.1)
    return tiles.view(pages, heads, TILE_TOKENS, -1)
