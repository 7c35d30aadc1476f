"""A rival's step over pages of its own format: timed as ours is, and checked as ours is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch

from bench.kernels import reference
from bench.kernels.clock import microseconds
from bench.kernels.shape import DEVICE, Shape


class RivalError(Exception):
    """A rival does not run; the message says why, in one line."""


class Rival(ABC):
    """A cache format of vLLM's, with the kernel that vLLM has for it.

    Subclasses make caches ``[pages, page_tokens, H, ·]`` and call the kernel.

    Attributes:
        name: of the format.
        options: arguments of the constructor that are tried; the fastest counts.
    """

    name: ClassVar[str]
    options: ClassVar[Sequence[Mapping[str, Any]]] = ({"page_tokens": 16}, {"page_tokens": 128})

    def __init__(self, shape: Shape, *, page_tokens: int) -> None:
        self.shape, self.page_tokens = shape, page_tokens
        token_bytes = self.token_bytes(shape.head_dim) * shape.kv_heads
        self.tables = shape.tables(page_tokens, token_bytes)
        self.pages = 1 + max(int(table.max()) for table in self.tables)
        self.starts, self.lengths = shape.starts(), shape.lengths_tensor()
        self.query = shape.rows(shape.query_heads)
        self.keys, self.values = (shape.rows(shape.kv_heads) for _ in "kv")
        self.out = torch.full_like(self.query, torch.nan)

    @classmethod
    @abstractmethod
    def refusal(cls, shape: Shape) -> str | None:
        """Why a shape is known not to run."""

    @classmethod
    @abstractmethod
    def token_bytes(cls, head_dim: int) -> int:
        """Bytes of a token's key and value in the cache, of one head."""

    @abstractmethod
    def attend(self, table: torch.Tensor) -> object:
        """Attention over the pages of a table, into :attr:`out`."""

    @abstractmethod
    def write(self, slots: torch.Tensor) -> object:
        """The step's keys and values into the cache."""

    @abstractmethod
    def stored(self, pages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values that pages stand for, ``[·, H, D]`` each."""

    def calls(self) -> list[Callable[[], object]]:
        """Calls of what is timed: attention alone in decoding, the whole step of prompts."""

        def decode(table: torch.Tensor) -> Callable[[], object]:
            return lambda: self.attend(table)

        def whole(table: torch.Tensor, slots: torch.Tensor) -> Callable[[], object]:
            return lambda: (self.write(slots), self.attend(table))

        if self.shape.stage == "decode":
            return [decode(table) for table in self.tables]
        slots = [self.shape.slots(table, self.page_tokens) for table in self.tables]
        return [whole(*call) for call in zip(self.tables, slots, strict=True)]

    def error(self) -> float:
        """Relative error of the first call against float64, the output poisoned before."""
        self.out.fill_(torch.nan)
        self.calls()[0]()
        want = torch.cat([self._wanted(index) for index in range(len(self.shape.lengths))])
        return reference.relative_error(self.out, want)

    def _wanted(self, index: int) -> torch.Tensor:
        shape = self.shape
        length, new = shape.lengths[index], shape.new[index]
        keys, values = (rows[:length] for rows in self.stored(self.tables[0][index].long()))
        position = torch.arange(length - new, length, device=DEVICE)[:, None]
        end = sum(shape.new[: index + 1])
        query = self.query[end - new : end]
        visible = torch.arange(length, device=DEVICE) <= position
        return reference.attention(query, keys, values, visible, shape.scale)


def moved_bytes(rival: type[Rival], shape: Shape) -> int:
    """Bytes of what is timed: the cache in decoding, queries and new rows as well for prompts."""
    token_bytes = rival.token_bytes(shape.head_dim) * shape.kv_heads
    cache_bytes = sum(shape.lengths) * token_bytes
    if shape.stage == "decode":
        return cache_bytes
    row_bytes = 2 * shape.head_dim
    written = shape.tokens * (token_bytes + 2 * shape.kv_heads * row_bytes)
    return cache_bytes + written + 2 * shape.tokens * shape.query_heads * row_bytes


def best(rival: type[Rival], shape: Shape) -> float:
    """Microseconds of a step, with the fastest options.

    Raises:
        RivalError: the rival does not run.
    """
    return min(_run(rival, shape, lambda step: microseconds(step.calls())))


def largest_error(rival: type[Rival], shape: Shape) -> float:
    """Relative error with the worst options.

    Raises:
        RivalError: the rival does not run.
    """
    return max(_run(rival, shape, Rival.error))


def _run(rival: type[Rival], shape: Shape, what: Callable[[Rival], float]) -> list[float]:
    """A number for each of the options.

    A rival is a guest: whatever stops it, a library that is missing or a shape that it does not
    take, must not stop the measurement.
    """
    try:
        refusal = rival.refusal(shape)
        if not refusal:
            return [what(rival(shape, **options)) for options in rival.options]
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        refusal = f"{type(error).__name__}: {first}"[:200]
    finally:
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
    raise RivalError(refusal)
