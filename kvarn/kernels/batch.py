"""What every implementation of the operations takes: a batch, and the pages of one layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kvarn.format.layout import TileLayout

NULL_PAGE = 0
"""vLLM's null block: where the tables of dummy batches point, and which nobody may write."""


@dataclass(frozen=True)
class Counts:
    """What the host knows of each sequence without waiting for the device.

    Attributes:
        new: new tokens.
        lengths: tokens after this step, or more.
    """

    new: Sequence[int]
    lengths: Sequence[int]


@dataclass(frozen=True)
class Batch:
    """The sequences of one step, as all layers see them; tensors on the device.

    Attributes:
        starts: ``[sequences + 1]`` index of each sequence's first new token; the last is the
            number of new tokens.
        lengths: ``[sequences]`` tokens of each sequence after this step.
        table: ``[sequences, ·]`` page of each tile.
        tokens: new tokens; the tensors of a captured graph may be longer.
        most_new: new tokens of the sequence that has most of them.
        longest: tokens of the longest sequence, or more.
        counts: of steps of more than single tokens, if the host knows them.
    """

    starts: torch.Tensor
    lengths: torch.Tensor
    table: torch.Tensor
    tokens: int
    most_new: int
    longest: int
    counts: Counts | None = None


@dataclass(frozen=True)
class LayerCache:
    """The pages of one layer.

    Attributes:
        layout: format and head dimension.
        packed: uint8 ``[blocks, H, 128, bytes_per_token]``; blocks are far apart, a head's bytes
            contiguous.
        tail: ``[blocks, H, 128, 2·D]`` of the model's type, likewise: keys, then values.
        tail_page: ``[sequences]`` tail page of each sequence of the batch.
        faults: int64 ``[1]``; how many numbers that are not finite came into tiles is added, if
            anyone wants to know.
    """

    layout: TileLayout
    packed: torch.Tensor
    tail: torch.Tensor
    tail_page: torch.Tensor
    faults: torch.Tensor | None = None
