"""Tiny steps that launch whatever a layer's steps may launch, so that it is compiled before them.

Triton compiles a kernel for the types of its arguments, and again where an integer is 1 or a
multiple of 16, or an address a multiple of 16. Kernels do not specialise on what differs from step
to step. What is left are addresses and strides of rows and pages: multiples of 16 in the engine,
and here as well. Only a layer's column in the table of tail pages begins at any number of four
bytes, so that every step runs with an address of either kind.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from kvarn.format.layout import TILE_TOKENS, TileLayout
from kvarn.format.scratch import dense_pages
from kvarn.kernels.batch import NULL_PAGE, Batch, Counts, LayerCache
from kvarn.kernels.triton.attention import FEW_TOKENS
from kvarn.kernels.triton.places import SEQUENCES
from kvarn.kernels.triton.step import prepare

PAGE = NULL_PAGE + 1
"""The one page that all tiles and all tails of a rehearsal share; what it holds means nothing."""

PROMPT_TOKENS = FEW_TOKENS + 1
"""New tokens that are a prompt."""

OPEN_TOKENS = 2 * TILE_TOKENS - FEW_TOKENS // 2
"""Tokens of a sequence before the step: a tile, and a tail that a few tokens complete."""


@dataclass(frozen=True)
class Layer:
    """What a layer's kernels are compiled for, and how large its steps are.

    Layers that differ in the latter alone are equal.

    Attributes:
        layout: format and head dimension.
        model: type of queries, keys and values.
        device: where they lie.
        heads: KV heads.
        group: query heads of a KV head.
        soft_cap: of the scores; 0 for none.
        tokens: most new tokens of a step.
        sequences: most sequences of a step.
    """

    layout: TileLayout
    model: torch.dtype
    device: torch.device
    heads: int
    group: int
    soft_cap: float
    tokens: int = field(compare=False)
    sequences: int = field(compare=False)


@dataclass(frozen=True)
class _Part:
    """A sequence in a step: new tokens, and those before them."""

    new: int
    before: int = 0


def rehearse(attend_and_store: Callable[..., None], layer: Layer) -> None:
    """Run steps of every kind on pages of their own, which are freed afterwards.

    Args:
        attend_and_store: a layer's work, as the engine calls it.
        layer: which kernels; the device's scratch memory is reserved for it.
    """
    for parts in _steps(layer):
        if sum(part.new for part in parts) <= layer.tokens:
            batch = _batch(parts, layer.device)
            for tail_page in batch.table.new_full((len(parts), 2), PAGE).unbind(1):
                _run(attend_and_store, layer, batch, tail_page)


def _steps(layer: Layer) -> Iterator[Sequence[_Part]]:
    """The kinds of steps."""
    single, prompt = _Part(1, OPEN_TOKENS), _Part(PROMPT_TOKENS, OPEN_TOKENS)
    yield [single]
    # A program that stores tiles takes several of many sequences.
    yield [single] * layer.sequences
    # Query rows of a program depend on how many tokens a segment has.
    yield [_Part(2, OPEN_TOKENS)]
    yield [_Part(FEW_TOKENS, OPEN_TOKENS)]
    yield [_Part(PROMPT_TOKENS), single, prompt]
    yield [_Part(PROMPT_TOKENS, _tiles_of_two_pieces(layer) * TILE_TOKENS)]
    idle = SEQUENCES
    while idle < layer.sequences:
        yield [prompt] + [_Part(0)] * idle
        idle *= 2


def _tiles_of_two_pieces(layer: Layer) -> int:
    """Tiles of a history that does not fit into scratch memory at once, beside an own tile."""
    return dense_pages(
        tokens=PROMPT_TOKENS,
        kv_heads=layer.heads,
        head_dim=layer.layout.head_dim,
        element_bytes=layer.model.itemsize,
    )


def _batch(parts: Sequence[_Part], device: torch.device) -> Batch:
    def tensor(numbers: Sequence[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=device)

    new = [part.new for part in parts]
    lengths = [part.before + part.new for part in parts]
    width = -(-max(lengths) // TILE_TOKENS)
    return Batch(
        starts=tensor([0, *new]).cumsum(0, dtype=torch.int32),
        lengths=tensor(lengths),
        table=torch.full((len(parts), width), PAGE, dtype=torch.int32, device=device),
        tokens=sum(new),
        most_new=max(new),
        longest=max(lengths),
        counts=Counts(new, lengths) if max(new) > 1 else None,
    )


def _run(
    attend_and_store: Callable[..., None], layer: Layer, batch: Batch, tail_page: torch.Tensor
) -> None:
    query, keys, values = _rows(layer, batch.tokens)
    attend_and_store(
        prepare(batch),
        _cache(layer, tail_page),
        query=query,
        keys=keys,
        values=values,
        scale=1.0,
        out=query.new_empty(query.shape),
        soft_cap=layer.soft_cap,
    )


def _rows(layer: Layer, tokens: int) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values ``[tokens, heads, D]``, side by side as models project them."""
    heads, head_dim = layer.heads, layer.layout.head_dim
    counts = [layer.group * heads, heads, heads]
    rows = torch.zeros(tokens, sum(counts), head_dim, dtype=layer.model, device=layer.device)
    return torch.split(rows, counts, dim=1)


def _cache(layer: Layer, tail_page: torch.Tensor) -> LayerCache:
    def pages(width: int, dtype: torch.dtype) -> torch.Tensor:
        shape = (PAGE + 1, layer.heads, TILE_TOKENS, width)
        return torch.zeros(shape, dtype=dtype, device=layer.device)

    layout = layer.layout
    return LayerCache(
        layout=layout,
        packed=pages(layout.bytes_per_token, torch.uint8),
        tail=pages(2 * layout.head_dim, layer.model),
        tail_page=tail_page,
        faults=torch.zeros(1, dtype=torch.int64, device=layer.device),
    )
