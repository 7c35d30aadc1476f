"""The steps that are measured, and where their tokens lie in pages."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import torch

from kvarn.format.layout import TILE_TOKENS

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

POOL_BYTES = 2**29 if DEVICE.type == "cuda" else 0
"""Least size of the pages that calls choose theirs from, so that none finds its own in the L2."""

OPEN_TOKENS = TILE_TOKENS // 2
"""Tokens of a decoding sequence's open tile: what they are on average."""

FEW_SEQUENCES = 16
"""Up to so many, vLLM's Triton attention cuts histories into parts; beyond, ours lets a program of
the store look after several sequences. So a check needs a batch on the same side."""

Stage = Literal["decode", "prefill", "store"]


@dataclass(frozen=True)
class Shape:
    """One layer's part of a step.

    Attributes:
        label: the batch, for tables.
        lengths: tokens of each sequence after the step.
        new: how many of them are the step's.
        kv_heads: KV heads.
        group: query heads of each.
        head_dim: channels.
    """

    label: str
    lengths: tuple[int, ...]
    new: tuple[int, ...]
    kv_heads: int = 8
    group: int = 4
    head_dim: int = 128

    @classmethod
    def decode(cls, sequences: int, context: int, **heads: int) -> "Shape":
        """Sequences of one length: so many tokens in whole tiles, and :data:`OPEN_TOKENS`."""
        lengths = (context + OPEN_TOKENS,) * sequences
        return cls(f"{sequences}×{context}", lengths, (1,) * sequences, **heads)

    @classmethod
    def uneven(cls, contexts: Sequence[int], **heads: int) -> "Shape":
        """Sequences of several lengths, likewise."""
        lengths = tuple(context + OPEN_TOKENS for context in contexts)
        label = f"{len(contexts)}×{min(contexts)}–{max(contexts)}"
        return cls(label, lengths, (1,) * len(contexts), **heads)

    @classmethod
    def prompt(cls, new: int, *, after: int = 0, beside: int = 0, **heads: int) -> "Shape":
        """A chunk of a prompt.

        Args:
            new: its tokens.
            after: tokens of the prompt before it.
            beside: sequences of 8,192 tokens that decode in the same step.
            heads: of the layer.
        """
        decoding = (8192 + OPEN_TOKENS,) * beside
        label = f"{new} after {after}" + (f", {beside} decode" if beside else "")
        return cls(label, (*decoding, after + new), (*(1,) * beside, new), **heads)

    @property
    def name(self) -> str:
        """For tables, such as 64×8192 g4 d128."""
        return f"{self.label} g{self.group} d{self.head_dim}"

    @property
    def stage(self) -> Stage:
        """Whose step it is."""
        return "decode" if self.most_new == 1 else "prefill"

    @property
    def calls(self) -> int:
        """Calls of a timing, each with pages of its own; prompts are limited by arithmetic."""
        return 8 if self.stage == "decode" else 3

    @property
    def tokens(self) -> int:
        """New tokens of the step."""
        return sum(self.new)

    @property
    def most_new(self) -> int:
        """New tokens of the sequence that has most."""
        return max(self.new)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    @property
    def query_heads(self) -> int:
        """Of the layer."""
        return self.kv_heads * self.group

    @property
    def scale(self) -> float:
        """Factor of the scores."""
        scale: float = self.head_dim**-0.5
        return scale

    @property
    def flops(self) -> int:
        """Multiplications and additions of causal attention."""
        pairs = sum(
            new * (length - new) + new * (new + 1) // 2
            for length, new in zip(self.lengths, self.new, strict=True)
        )
        return 4 * pairs * self.query_heads * self.head_dim

    def small(self) -> "Shape":
        """A step that the same compiled kernels compute in a moment, with uneven lengths.

        Triton compiles anew where a number is 1 or not a multiple of 16 any more: how many
        sequences there are, and how wide the table of pages is.
        """
        sequences = len(self.lengths)
        if self.stage == "prefill":
            sequences = 1 if sequences == 1 else 16
        elif sequences not in {1, 16}:
            sequences = 4 if sequences < FEW_SEQUENCES else 64
        tiles = (5, 14, 0, 9) * 16
        lengths = [TILE_TOKENS * each + OPEN_TOKENS for each in tiles[:sequences]]
        new = [1] * sequences
        if self.stage == "prefill":
            lengths[-1], new[-1] = 15 * TILE_TOKENS + 120, 280
        label = f"{sequences} short"
        return replace(self, label=label, lengths=tuple(lengths), new=tuple(new))

    def starts(self) -> torch.Tensor:
        """Index of each sequence's first new token, and the number of all."""
        counts = torch.tensor((0, *self.new), device=DEVICE)
        return counts.cumsum(0).int()

    def lengths_tensor(self) -> torch.Tensor:
        """Lengths as kernels take them."""
        return torch.tensor(self.lengths, dtype=torch.int32, device=DEVICE)

    def rows(self, heads: int) -> torch.Tensor:
        """A random row of each new token and head."""
        shape = (self.tokens, heads, self.head_dim)
        return torch.randn(shape, dtype=torch.bfloat16, device=DEVICE)

    def tables(self, page_tokens: int, token_bytes: int) -> list[torch.Tensor]:
        """Pages of all sequences, ``[sequences, ·]``, for each call; page 0 is nobody's.

        Args:
            page_tokens: of a page.
            token_bytes: of all heads.
        """
        width = -(-self.longest // page_tokens)
        count = len(self.lengths) * width
        pool = max(count, POOL_BYTES // (page_tokens * token_bytes))
        return [
            torch.randperm(pool, device=DEVICE)[:count].int().view(-1, width) + 1
            for _ in range(self.calls)
        ]

    def slots(self, table: torch.Tensor, page_tokens: int) -> torch.Tensor:
        """Where the pages of a table have the new tokens, counted in tokens."""
        new = torch.tensor(self.new, device=DEVICE)
        sequence = torch.arange(len(self.new), device=DEVICE).repeat_interleave(new)
        place = torch.arange(self.tokens, device=DEVICE) - self.starts()[sequence]
        position = (self.lengths_tensor() - new)[sequence] + place
        pages = table[sequence, position // page_tokens].long()
        return pages * page_tokens + position % page_tokens


QUICK = (Shape.decode(64, 8192), Shape.decode(8, 8192), Shape.decode(1, 131072))


def decode_shapes() -> list[Shape]:
    """Decode steps of the record."""
    contexts = Random(7)
    sizes = ((32, 32768), (4, 65536), (256, 2048), (16, 16384), (16, 4096))
    small_sizes = ((1, 1024), (1, 8192), (64, 1024), (256, 1024))
    return [
        *QUICK,
        *(Shape.decode(*size) for size in sizes + small_sizes),
        Shape.uneven([TILE_TOKENS * contexts.randint(2, 128) for _ in range(64)]),
        Shape.decode(64, 8192, group=1),
        Shape.decode(64, 8192, group=8),
        Shape.decode(64, 8192, head_dim=64),
        Shape.decode(64, 8192, kv_heads=4, head_dim=256),
    ]


def sweep_shapes() -> list[Shape]:
    """Those and every context and batch that fits into a GPU's memory in bfloat16."""
    known = decode_shapes()
    grid = [
        Shape.decode(4**power, 2**exponent)
        for power in range(5)
        for exponent in range(10, 18)
        if 4**power * 2**exponent <= 2**21
    ]
    return known + [shape for shape in grid if shape not in known]


def prefill_shapes() -> list[Shape]:
    """Chunks of prompts of the record: alone, and beside sequences that decode."""
    alone = [Shape.prompt(new, after=after) for after in (0, 8192, 32768) for new in (2048, 8192)]
    return [*alone, Shape.prompt(2048, after=8192, beside=63)]


def store_shapes() -> list[Shape]:
    """Steps whose store is looked at."""
    return [Shape.decode(64, 8192), Shape.prompt(8192), Shape.prompt(2048, after=8192)]
