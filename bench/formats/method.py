"""What the study compares: a way through a cache, and the bits that it stores."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

Through = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Keys and values ``[…, T, D]`` as they come back from a cache; T is a multiple of 128."""


@dataclass(frozen=True)
class Method:
    """A cache format.

    Attributes:
        name: as the tables show it.
        bits: stored bits per number of keys and values at a head dimension, metadata included.
        through: what comes back.
        keeps_open_tile: whether a query sees its own tile of 128 tokens raw, as in this project;
            if not, each token is stored as soon as it is there.
        sink_tokens: first tokens of a sequence that stay raw.
    """

    name: str
    bits: Callable[[int], float]
    through: Through
    keeps_open_tile: bool = False
    sink_tokens: int = 0

    def stored(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A sequence's first tokens ``[…, T, D]`` as they come back; the sink stays as it is."""
        back_keys, back_values = self.through(keys, values)
        if self.sink_tokens:
            back_keys, back_values = back_keys.clone(), back_values.clone()
            back_keys[..., : self.sink_tokens, :] = keys[..., : self.sink_tokens, :]
            back_values[..., : self.sink_tokens, :] = values[..., : self.sink_tokens, :]
        return back_keys, back_values


def rounded(rows: torch.Tensor, *, axis: int, bits: int, part: float = 1.0) -> torch.Tensor:
    """Round to nearest on an even grid over a part of each row's range; metadata in float16."""
    low, high = rows.amin(axis, keepdim=True), rows.amax(axis, keepdim=True)
    spread = (high - low) * part
    step = (spread / ((1 << bits) - 1)).half().float().clamp(min=2.0**-24)
    zero = ((low + high - spread) / 2).half().float()
    codes = ((rows - zero) / step).round().clamp(0, (1 << bits) - 1)
    result: torch.Tensor = codes * step + zero
    return result


def tiled(rows: torch.Tensor, tokens: int = 128) -> torch.Tensor:
    """``[…, T, D]`` as tiles ``[…, T/tokens, tokens, D]``."""
    return rows.unflatten(-2, (-1, tokens))
