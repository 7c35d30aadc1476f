"""Our quantiser with every choice open: what `kvarn.format` does, and what it could do.

For rotated keys and values alike:

    row[t, d] = (code[t, d] − (2^b − 1)/2) · token_scale[t] · channel_scale[d] + mean[d]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch

from bench.formats.method import Method, tiled
from kvarn.format.hadamard import hadamard
from kvarn.format.layout import TileFormat
from kvarn.format.reference import PASSES, RANGE, SMALLEST, middle

Rows = torch.Tensor


def _middle(rows: Rows) -> Rows:
    return (rows.amin(-2, keepdim=True) + rows.amax(-2, keepdim=True)) / 2


def _average(rows: Rows) -> Rows:
    return rows.mean(-2, keepdim=True)


CENTRES: Mapping[str, Callable[[Rows], Rows]] = MappingProxyType(
    {"middle of the range": _middle, "average": _average}
)
"""Where the codes of a channel are centred before anything is fitted."""


@dataclass(frozen=True)
class Recipe:
    """Choices of the quantiser; the defaults are those of `kvarn.format`.

    Attributes:
        key_bits: bits of a key code.
        value_bits: bits of a value code.
        ranges: part of a channel's range that codes of so many bits span at first.
        centre: one of :data:`CENTRES`.
        about_zero: whether tokens divide what a channel is on average as well.
        even_tokens: whether tokens are brought to one size first.
        passes: how often scales and means are fitted to the codes, and the codes to them.
        means: whether the means are fitted, too.
        rotate: whether channels are rotated first.
        group_tokens: tokens of a tile.
        metadata_bits: 16 for float16, 8 for e4m3 against one float16 per vector.
    """

    key_bits: int = 4
    value_bits: int = 2
    ranges: Mapping[int, float] = field(default_factory=lambda: RANGE)
    centre: str = "middle of the range"
    about_zero: bool = False
    even_tokens: bool = True
    passes: int = PASSES
    means: bool = True
    rotate: bool = True
    group_tokens: int = 128
    metadata_bits: int = 16

    def bits(self, head_dim: int) -> float:
        """Stored bits per number, metadata included."""
        numbers = 2 / self.group_tokens + 1 / head_dim
        return (self.key_bits + self.value_bits) / 2 + numbers * self.metadata_bits

    def through(self, keys: Rows, values: Rows) -> tuple[Rows, Rows]:
        """Keys and values ``[…, T, D]`` as they come back."""
        return self._back(keys, self.key_bits), self._back(values, self.value_bits)

    def _back(self, rows: Rows, bits: int) -> Rows:
        order = rows.shape[-1]
        turn = (hadamard(order) if self.rotate else torch.eye(order)).to(rows.device)
        stored: Rows = self._stored(tiled(rows, self.group_tokens) @ turn, bits) @ turn
        return stored.flatten(-3, -2)

    def _stored(self, rows: Rows, bits: int) -> Rows:
        token, channel, mean = self._start(rows, bits)
        for _ in range(self.passes):
            codes = _codes((rows - mean) / (token * channel), bits)
            token = _factor(rows - mean, codes * channel, -1)
            channel = _factor(rows - mean, codes * token, -2)
            if self.means:
                mean = (rows - codes * token * channel).mean(-2, keepdim=True)
        token, channel = self._kept(token), self._kept(channel)
        codes = _codes((rows - mean) / (token * channel), bits) * token * channel
        if self.means:
            mean = (rows - codes).mean(-2, keepdim=True)
        return codes + self._kept(mean, signed=True)

    def _start(self, rows: Rows, bits: int) -> tuple[Rows, Rows, Rows]:
        centre = CENTRES[self.centre]
        token = (rows - centre(rows)).square().mean(-1, keepdim=True).sqrt().clamp(min=SMALLEST)
        if not self.even_tokens:
            token = token.mean(-2, keepdim=True).expand_as(token)
        average = torch.zeros_like(rows[..., :1, :]) if self.about_zero else _average(rows)
        mean = average + centre((rows - average) / token) * token.mean(-2, keepdim=True)
        reach = ((rows - mean) / token).abs().amax(-2, keepdim=True)
        return token, (reach * self.ranges[bits] / middle(bits)).clamp(min=SMALLEST), mean

    def _kept(self, vector: Rows, *, signed: bool = False) -> Rows:
        """A vector of a tile as its metadata type keeps it."""
        if self.metadata_bits == 16:
            kept = vector.half().float()
        else:
            largest = vector.abs().amax((-2, -1), keepdim=True).clamp(min=SMALLEST)
            unit = largest.half().float() / 448
            kept = (vector / unit).clamp(-448, 448).to(torch.float8_e4m3fn).float() * unit
        return kept if signed else kept.clamp(min=SMALLEST)


def method(name: str, recipe: Recipe, *, sink_tokens: int = 0) -> Method:
    """A recipe as a contender of the study."""
    return Method(name, recipe.bits, recipe.through, keeps_open_tile=True, sink_tokens=sink_tokens)


def of(tile_format: TileFormat) -> Recipe:
    """The recipe that a preset of `kvarn.format` follows."""
    return Recipe(key_bits=tile_format.key_bits, value_bits=tile_format.value_bits)


def with_range(recipe: Recipe, bits: int, part: float) -> Recipe:
    """The recipe with another range for codes of so many bits."""
    return replace(recipe, ranges={**recipe.ranges, bits: part})


def _codes(steps: Rows, bits: int) -> Rows:
    return (steps + middle(bits)).round().clamp(0, 2 * middle(bits)) - middle(bits)


def _factor(rows: Rows, shape: Rows, axis: int) -> Rows:
    """The factor along an axis that brings `shape` nearest to `rows`."""
    above = (rows * shape).sum(axis, keepdim=True)
    below = shape.square().sum(axis, keepdim=True)
    return (above / below.clamp(min=SMALLEST)).clamp(min=SMALLEST)
