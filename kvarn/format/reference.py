"""The quantiser, and attention over tiles, in fp32 and written like the formulas.

Every kernel is compared with these. The functions on tiles take any number of leading dimensions
and treat each tile alone. The method is KVarN's (arXiv 2606.03458, Algorithm 1) with the changes
that docs/decisions/0002-tile-format.md measures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

import torch

from kvarn.format.hadamard import rotation
from kvarn.format.layout import TILE_TOKENS, TileLayout

Tile = Mapping[str, torch.Tensor]
"""The arrays of a tile by the names of :mod:`kvarn.format.layout`, codes unpacked: int16
``[…, 128, D]``."""

PASSES = 2
"""How often scales and means are fitted to the codes, and codes to them."""

RANGE: Mapping[int, float] = MappingProxyType({2: 0.7, 3: 0.85, 4: 0.95})
"""Part of a channel's range that codes of so many bits span at first; what is outside is clipped.

Measured, as all constants of the method, in docs/decisions/0002-tile-format.md.
"""

SMALLEST, LARGEST = 2.0**-24, 65504.0
"""Bounds of a stored scale: those of float16."""


def quantise(layout: TileLayout, keys: torch.Tensor, values: torch.Tensor) -> Tile:
    """Quantise tiles.

    A number that is not finite counts as zero, because it would take its whole tile with it.

    Args:
        layout: format and head dimension.
        keys: as the model made them, after the position encoding; ``[…, 128, D]`` of any type.
        values: likewise.
    """
    if layout.format.is_raw:
        return {"keys": keys.float(), "values": values.float()}
    turn = rotation(layout, keys.device)
    return {
        f"{name}_{array}": tensor
        for name, rows, bits in (
            ("key", keys, layout.format.key_bits),
            ("value", values, layout.format.value_bits),
        )
        for array, tensor in _quantise(_finite(rows) @ turn, bits).items()
    }


def dequantise(layout: TileLayout, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values that a tile stands for, rotated back; float32 ``[…, 128, D]`` each."""
    if layout.format.is_raw:
        return tile["keys"], tile["values"]
    turn = rotation(layout, tile["key_codes"].device)
    keys = _rows(tile, "key", layout.format.key_bits) @ turn
    values = _rows(tile, "value", layout.format.value_bits) @ turn
    return keys, values


def middle(bits: int) -> float:
    """The middle of the codes of so many bits, which stands for a channel's mean."""
    return ((1 << bits) - 1) / 2


def _rows(tile: Tile, name: str, bits: int) -> torch.Tensor:
    scaled = (tile[f"{name}_codes"] - middle(bits)) * tile[f"{name}_token_scale"].unsqueeze(-1)
    rows: torch.Tensor = scaled * tile[f"{name}_channel_scale"].unsqueeze(-2)
    return rows + tile[f"{name}_mean"].unsqueeze(-2)


def _finite(rows: torch.Tensor) -> torch.Tensor:
    return rows.float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True)
class _Grid:
    """What codes stand for, kept with the axes of the rows.

    Attributes:
        token: scales of the tokens ``[…, 128, 1]``.
        channel: scales of the channels ``[…, 1, D]``.
        mean: of the channels ``[…, 1, D]``.
        bits: width of a code.
    """

    token: torch.Tensor
    channel: torch.Tensor
    mean: torch.Tensor
    bits: int

    @classmethod
    def around(cls, rows: torch.Tensor, bits: int) -> Self:
        """A grid that spans most of each channel once the tokens are of one size."""
        token = _root_mean_square(rows - _middle_of_range(rows))
        # A bias of the keys is the same in every token: it must not be divided by their sizes.
        average = rows.mean(dim=-2, keepdim=True)
        level = (rows - average) / token
        mean = average + _middle_of_range(level) * token.mean(dim=-2, keepdim=True)
        reach = ((rows - mean) / token).abs().amax(dim=-2, keepdim=True)
        channel = (reach * RANGE[bits] / middle(bits)).clamp(min=SMALLEST)
        return cls(token, channel, mean, bits)

    def codes(self, rows: torch.Tensor) -> torch.Tensor:
        """The nearest codes, counted from their middle."""
        top = middle(self.bits)
        steps = (rows - self.mean) / (self.token * self.channel)
        return (steps + top).round().clamp(0, 2 * top) - top

    def fitted(self, rows: torch.Tensor) -> Self:
        """The grid on which the rows' codes come nearest to them, one axis after the other."""
        codes, offset = self.codes(rows), rows - self.mean
        token = _least_squares(offset, codes * self.channel, axis=-1)
        channel = _least_squares(offset, codes * token, axis=-2)
        mean = (rows - codes * token * channel).mean(dim=-2, keepdim=True)
        return type(self)(token, channel, mean, self.bits)


def _quantise(rows: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Codes, scales and means of rotated rows, float32 ``[…, 128, D]``."""
    grid = _Grid.around(rows, bits)
    for _ in range(PASSES):
        grid = grid.fitted(rows)
    # Codes are chosen for the scales as stored, and means for those codes.
    token, channel = (_stored(scale) for scale in (grid.token, grid.channel))
    codes = _Grid(token, channel, grid.mean, bits).codes(rows)
    mean = (rows - codes * token * channel).mean(dim=-2, keepdim=True)
    return {
        "codes": (codes + middle(bits)).to(torch.int16),
        "token_scale": token.squeeze(-1).half(),
        "channel_scale": channel.squeeze(-2).half(),
        "mean": mean.squeeze(-2).clamp(-LARGEST, LARGEST).half(),
    }


def _middle_of_range(rows: torch.Tensor) -> torch.Tensor:
    return (rows.amin(dim=-2, keepdim=True) + rows.amax(dim=-2, keepdim=True)) / 2


def _root_mean_square(rows: torch.Tensor) -> torch.Tensor:
    return rows.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=SMALLEST)


def _least_squares(rows: torch.Tensor, shape: torch.Tensor, *, axis: int) -> torch.Tensor:
    """The factors along an axis that bring `shape` nearest to the rows."""
    product = (rows * shape).sum(dim=axis, keepdim=True)
    factor: torch.Tensor = product / shape.square().sum(dim=axis, keepdim=True).clamp(min=SMALLEST)
    return factor.clamp(min=SMALLEST)


def _stored(scale: torch.Tensor) -> torch.Tensor:
    return scale.clamp(SMALLEST, LARGEST).half().float()


def attention(
    layout: TileLayout,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Causal attention of a sequence's last tokens: own tile raw, every earlier one quantised.

    Args:
        layout: format and head dimension.
        query: ``[n, Hq, D]``, of the last n of the sequence's L tokens.
        keys: ``[L, Hkv, D]``; Hkv divides Hq.
        values: ``[L, Hkv, D]``.
        scale: factor of the scores.

    Returns:
        float32 ``[n, Hq, D]``.
    """
    length, group = len(keys), query.shape[1] // keys.shape[1]
    key_position = torch.arange(length, device=keys.device)
    position = key_position[length - len(query) :, None]
    own = key_position // TILE_TOKENS == position // TILE_TOKENS
    raw_keys, raw_values = _heads(keys, group), _heads(values, group)
    stored_keys, stored_values = (
        _heads(rows, group) for rows in _through_the_cache(layout, keys, values)
    )
    rows = query.float().transpose(0, 1)
    scores = torch.where(own, rows @ raw_keys.mT, rows @ stored_keys.mT) * scale
    weights = scores.masked_fill(key_position > position, -torch.inf).softmax(dim=-1)
    out = (weights * own) @ raw_values + (weights * ~own) @ stored_values
    return out.transpose(0, 1)


def _heads(rows: torch.Tensor, group: int) -> torch.Tensor:
    """``[L, Hkv, D]`` to float32 ``[Hq, L, D]``."""
    return rows.float().transpose(0, 1).repeat_interleave(group, dim=0)


def _through_the_cache(
    layout: TileLayout, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values with every whole tile quantised and back; ``[L, Hkv, D]`` each."""
    closed = len(keys) // TILE_TOKENS * TILE_TOKENS
    shape = (-1, TILE_TOKENS, *keys.shape[1:])
    tiles = [rows[:closed].reshape(shape).transpose(1, 2) for rows in (keys, values)]
    stored = dequantise(layout, quantise(layout, *tiles))
    back_keys, back_values = (
        torch.cat([back.transpose(1, 2).flatten(0, 1), rows[closed:].float()])
        for back, rows in zip(stored, (keys, values), strict=True)
    )
    return back_keys, back_values
