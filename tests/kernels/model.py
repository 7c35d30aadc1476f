"""Sequences that are attended step by step, and what the reference says of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType

import torch

from kvarn.format.reference import attention
from kvarn.kernels import plain
from tests.kernels.steps import World, joined


def chunks(length: int, size: int) -> Iterator[tuple[int, int]]:
    """A sequence's tokens from which to which, `size` at a time."""
    for begin in range(0, length, size):
        yield begin, min(begin + size, length)


@dataclass
class Model(World):
    """A world with queries.

    Attributes:
        kernels: implementation of the operations.
        group: query heads of a KV head.
        options: of `attend_and_store`.
    """

    kernels: ModuleType = plain
    group: int = 2
    options: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        generator = torch.Generator().manual_seed(self.seed + 1)
        shape = (self.heads * self.group, self.layout.head_dim)
        self.query = [
            torch.randn(length, *shape, generator=generator).to(self.device, self.dtype)
            for length in self.lengths
        ]
        self.out = [torch.full_like(query, torch.nan) for query in self.query]

    @property
    def scale(self) -> float:
        """Factor of the scores."""
        scale: float = self.layout.head_dim**-0.5
        return scale

    def run(self, batch: dict[int, tuple[int, int]]) -> None:
        """One step: for each sequence, the tokens from which to which."""
        query, keys, values = (joined(of, batch) for of in (self.query, self.keys, self.values))
        out = torch.full_like(query, torch.nan)
        self.kernels.attend_and_store(
            self.kernels.prepare(self.batch(batch)),
            self.cache(list(batch)),
            query=query,
            keys=keys,
            values=values,
            scale=self.scale,
            out=out,
            **self.options,
        )
        counts = [end - begin for begin, end in batch.values()]
        for (member, chunk), rows in zip(batch.items(), out.split(counts), strict=True):
            self.out[member][slice(*chunk)] = rows

    def run_in_chunks(self, sizes: list[int]) -> None:
        """All sequences side by side, each so many tokens at a time."""
        plans = [list(chunks(*plan)) for plan in zip(self.lengths, sizes, strict=False)]
        while batch := {member: plan.pop(0) for member, plan in enumerate(plans) if plan}:
            self.run(batch)

    def check(self) -> None:
        """Compare with the reference: exactly what it computes, or as near as a half can come."""
        exact = self.dtype == torch.float32 and self.kernels is plain and self.device.type == "cpu"
        tolerance = {"rtol": 0.0, "atol": 1e-4} if exact else {"rtol": 1e-2, "atol": 5e-2}
        for query, keys, values, out in zip(
            self.query, self.keys, self.values, self.out, strict=True
        ):
            want = attention(self.layout, query, keys, values, self.scale)
            torch.testing.assert_close(out.float(), want, **tolerance)
            # A rounded product may flip a code here and there, but no more.
            assert (out.float() - want).norm() < 1e-2 * want.norm()
