"""Tensors as kernels take them: a pointer and the strides that are not known from the layout."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
import triton.language as tl

from kvarn.format.layout import TileLayout
from kvarn.kernels.batch import LayerCache
from kvarn.kernels.triton.step import Step


@dataclass(frozen=True)
class Attention:
    """One layer's attention in a step; channels are contiguous.

    Attributes:
        query: ``[tokens, Hq, D]``.
        keys: ``[tokens, H, D]`` of the new tokens.
        values: ``[tokens, H, D]``.
        out: ``[tokens, Hq, D]``.
        scale: factor of the scores.
        soft_cap: c, where scores s become c · tanh(s / c); 0 for none.
    """

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    out: torch.Tensor
    scale: float
    soft_cap: float

    @property
    def group(self) -> int:
        """Query heads of a KV head."""
        return self.query.shape[1] // self.keys.shape[1]


Store = Callable[..., bool]
"""Takes what Triton's `store_tiles` takes and says that it did its work, or does nothing."""

SingleTokens = Callable[..., bool]
"""Takes a step, a layer's pages and its attention; attends the segments of one token, keeps those
in the tails, and says so; or does nothing. With ``stores=True`` it stores complete tiles too."""


class Rows(NamedTuple):
    """Vectors of tokens and heads: ``[tokens, heads, ·]``, the last dimension contiguous."""

    pointer: torch.Tensor
    token_stride: int
    head_stride: int

    @classmethod
    def of(cls, rows: torch.Tensor) -> Self:
        """All of a tensor."""
        return cls(rows, rows.stride(0), rows.stride(1))


class Pages(NamedTuple):
    """Pages of heads: ``[blocks, H, …]``, what a head has contiguous; blocks may be far apart."""

    pointer: torch.Tensor
    page_stride: int
    head_stride: int

    @classmethod
    def of(cls, pages: torch.Tensor) -> Self:
        """All of a tensor."""
        return cls(pages, pages.stride(0), pages.stride(1))


class Sequences(NamedTuple):
    """A batch, its segments, and where its pages are in one layer.

    The strides of the last two go beside it, to kernels that do not specialise on them: they are
    anything, and Triton specialises on whatever a tuple holds.
    """

    starts: torch.Tensor
    lengths: torch.Tensor
    segment_sequence: torch.Tensor | None
    segment_tile: torch.Tensor | None
    table: torch.Tensor
    tail_page: torch.Tensor

    @classmethod
    def of(cls, step: Step, cache: LayerCache) -> Self:
        """Those of a step."""
        return cls(
            step.batch.starts,
            step.batch.lengths,
            step.segment_sequence,
            step.segment_tile,
            step.batch.table,
            cache.tail_page,
        )


class Partial(NamedTuple):
    """Results of parts, for each query row of the segments in a launch.

    Attributes:
        sums: float32 ``[rows, 1 + parts, C]``, relative to the part's own total.
        exponents: float32 ``[rows, 1 + parts]``: the part's total is two to this power.
    """

    sums: torch.Tensor
    exponents: torch.Tensor


def compute_type(layout: TileLayout, model: torch.dtype) -> torch.dtype:
    """Type of the products: codes are float16; raw tiles and float32 models lose nothing."""
    exact = layout.format.is_raw or model == torch.float32
    return torch.float32 if exact else torch.float16


def as_triton(dtype: torch.dtype) -> tl.dtype:
    """The same type by Triton's name."""
    return {torch.float32: tl.float32, torch.float16: tl.float16}[dtype]
