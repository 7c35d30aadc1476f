"""Our quantiser with every choice open: what `kvarn.format` does, and what it could do.

    key[t, d]   = (code[t, d] · key_scale[d] + key_zero[d]) · key_token_scale[t]
    value[t, d] =  code[t, d] · value_scale[t] · value_channel_scale[d] + value_offset

`value_offset` is a number per token (the value of code 0, as now) or, with `value_means`, a number
per channel (the mean that codes about zero leave, so that a tile's errors add up to nothing).
"""

from dataclasses import dataclass, replace

import torch

from bench.formats.method import Method, tiled
from kvarn.format.hadamard import hadamard
from kvarn.format.reference import token_scales

SMALLEST = 2.0**-24


@dataclass(frozen=True)
class Recipe:
    """Choices of the quantiser; the defaults are those of the first version of `kvarn.format`.

    Attributes:
        key_bits: bits of a key code.
        value_bits: bits of a value code.
        key_range: part of a channel's range that its codes span at first.
        value_range: the same for a token's values.
        iterations: of the keys' normalisation; 0 leaves their tokens as they are.
        fits: how often scales are refitted to the codes by least squares, and the codes to them.
        value_channels: whether values have a scale per channel.
        value_means: whether values have an offset per channel in place of one per token.
        rotate: whether channels are rotated first.
        group_tokens: tokens of a tile.
        metadata_bits: 16 for float16, 8 for e4m3 against one float16 per vector.
    """

    key_bits: int = 4
    value_bits: int = 2
    key_range: float = 0.95
    value_range: float = 0.7
    iterations: int = 3
    fits: int = 0
    value_channels: bool = False
    value_means: bool = False
    rotate: bool = True
    group_tokens: int = 128
    metadata_bits: int = 16

    def bits(self, head_dim: int) -> float:
        """Stored bits per number, metadata included."""
        per_channel = 2 + self.value_channels + self.value_means
        per_token = 2 + (not self.value_means)
        numbers = per_channel / self.group_tokens + per_token / head_dim
        return (self.key_bits + self.value_bits + numbers * self.metadata_bits) / 2

    def through(
        self, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values ``[…, T, D]`` as they come back."""
        turn = self._turn(keys)
        back_keys = self.keys(tiled(keys, self.group_tokens) @ turn) @ turn
        back_values = self.values(tiled(values, self.group_tokens) @ turn) @ turn
        return back_keys.flatten(-3, -2), back_values.flatten(-3, -2)

    def _turn(self, rows: torch.Tensor) -> torch.Tensor:
        turn = hadamard(rows.shape[-1]) if self.rotate else torch.eye(rows.shape[-1])
        return turn.to(rows.device)

    def keys(self, tiles: torch.Tensor) -> torch.Tensor:
        """Rotated keys ``[…, tokens, D]`` as they come back."""
        top = (1 << self.key_bits) - 1
        tokens = token_scales(tiles, self.iterations) if self.iterations else _ones(tiles)
        tokens = self._kept(tokens)
        step, zero = _ends(tiles / tokens, axis=-2, part=self.key_range, top=top)
        for _ in range(self.fits):
            codes = _codes((tiles / tokens - zero) / step, top)
            step, zero = _line(codes, tiles / tokens, weight=tokens.square(), axis=-2)
            shape = codes * step + zero
            tokens = _ratio(tiles, shape, weight=torch.ones_like(step), axis=-1)
        tokens, step, zero = self._kept(tokens), self._kept(step), self._kept(zero, signed=True)
        return (_codes((tiles / tokens - zero) / step, top) * step + zero) * tokens

    def values(self, tiles: torch.Tensor) -> torch.Tensor:
        """Rotated values ``[…, tokens, D]`` as they come back."""
        return self._centred(tiles) if self.value_means else self._offset(tiles)

    def _offset(self, tiles: torch.Tensor) -> torch.Tensor:
        """With a step and a zero per token."""
        top = (1 << self.value_bits) - 1
        channels = self._kept(self._channel_scale(tiles))
        flat = tiles / channels
        step, zero = _ends(flat, axis=-1, part=self.value_range, top=top)
        for _ in range(self.fits):
            codes = _codes((flat - zero) / step, top)
            step, zero = _line(codes, flat, weight=channels.square(), axis=-1)
        step, zero = self._kept(step), self._kept(zero, signed=True)
        return (_codes((flat - zero) / step, top) * step + zero) * channels

    def _centred(self, tiles: torch.Tensor) -> torch.Tensor:
        """With codes about zero, a step per token and a mean per channel."""
        top = (1 << self.value_bits) - 1
        means = tiles.mean(-2, keepdim=True)
        channels = self._kept(self._channel_scale(tiles - means))
        back = torch.zeros_like(tiles)
        for _ in range(max(self.fits, 1)):
            flat = (tiles - means) / channels
            low, high = flat.amin(-1, keepdim=True), flat.amax(-1, keepdim=True)
            step = ((high - low) * self.value_range / top).clamp(min=SMALLEST)
            for _ in range(self.fits):
                codes = _codes(flat / step + top / 2, top) - top / 2
                step = _ratio(flat, codes, weight=channels.square(), axis=-1)
            step = self._kept(step)
            codes = _codes(flat / step + top / 2, top) - top / 2
            back = codes * step * channels
            means = self._kept((tiles - back).mean(-2, keepdim=True), signed=True)
        return back + means

    def _channel_scale(self, tiles: torch.Tensor) -> torch.Tensor:
        if not self.value_channels:
            return torch.ones_like(tiles[..., :1, :])
        return token_scales(tiles.mT, self.iterations).mT / _size(tiles, (-2, -1))

    def _kept(self, vector: torch.Tensor, *, signed: bool = False) -> torch.Tensor:
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


K4V2 = Recipe()
K4V4 = replace(K4V2, value_bits=4, value_range=0.95)
CENTRED_K4V2 = replace(K4V2, fits=2, value_channels=True, value_means=True)
CENTRED_K4V4 = replace(K4V4, fits=2, value_channels=True, value_means=True)
CENTRED_K4V3 = replace(CENTRED_K4V2, value_bits=3, value_range=0.85)
CENTRED_K3V3 = replace(CENTRED_K4V3, key_bits=3, key_range=0.9)


def _ones(tiles: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(tiles[..., :1])


def _size(rows: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    return rows.square().mean(axes, keepdim=True).sqrt().clamp(min=SMALLEST)


def _ends(
    rows: torch.Tensor, *, axis: int, part: float, top: int
) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = rows.amin(axis, keepdim=True), rows.amax(axis, keepdim=True)
    spread = (high - low) * part
    return (spread / top).half().float().clamp(min=SMALLEST), (low + high - spread) / 2


def _codes(position: torch.Tensor, top: int) -> torch.Tensor:
    return position.round().clamp(0, top)


def _line(
    codes: torch.Tensor, rows: torch.Tensor, *, weight: torch.Tensor, axis: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Step and zero of the line through (code, number) that least squares give each row."""
    weight = weight.expand_as(rows)
    total = weight.sum(axis, keepdim=True)
    mean_code = (weight * codes).sum(axis, keepdim=True) / total
    mean = (weight * rows).sum(axis, keepdim=True) / total
    about = codes - mean_code
    slope = _ratio(rows - mean, about, weight=weight, axis=axis)
    return slope, mean - slope * mean_code


def _ratio(
    rows: torch.Tensor, shape: torch.Tensor, *, weight: torch.Tensor, axis: int
) -> torch.Tensor:
    """The factor that brings `shape` nearest to `rows`."""
    above = (weight * rows * shape).sum(axis, keepdim=True)
    below = (weight * shape.square()).sum(axis, keepdim=True)
    return (above / below.clamp(min=SMALLEST**2)).clamp(min=SMALLEST)
