"""The quantiser, and attention over tiles, in fp32 and written like the formulas.

Every kernel is compared with these. The functions on tiles take any number of leading dimensions
and treat each tile alone. The method is KVarN's (arXiv 2606.03458, Algorithm 1) with the changes
that docs/decisions/0002-tile-format.md measures.
"""

from collections.abc import Mapping

import torch

from kvarn.format.hadamard import rotation
from kvarn.format.layout import TILE_TOKENS, TileFormat, TileLayout

Tile = Mapping[str, torch.Tensor]
"""The arrays of a tile by the names of :mod:`kvarn.format.layout`, codes unpacked: int16
``[…, 128, D]``."""

ITERATIONS = 3
"""How often the tokens and the channels of a tile are normalised in turn."""

_SMALLEST_STEP = 2.0**-24  # the smallest float16, so that a stored step is never zero
_LEAST_OF_A_ROW = 2.0**-10  # root mean square, where that of the whole tile is 1


def quantise(layout: TileLayout, keys: torch.Tensor, values: torch.Tensor) -> Tile:
    """Quantise tiles.

    Args:
        layout: format and head dimension.
        keys: as the model made them, after the position encoding; ``[…, 128, D]`` of any type.
        values: likewise.
    """
    if layout.format.is_raw:
        return {"keys": keys.float(), "values": values.float()}
    turn = rotation(layout, keys.device)
    return {
        **_quantise_keys(layout.format, keys.float() @ turn),
        **_quantise_values(layout.format, values.float() @ turn),
    }


def dequantise(layout: TileLayout, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values that a tile stands for, rotated back; float32 ``[…, 128, D]`` each."""
    if layout.format.is_raw:
        return tile["keys"], tile["values"]
    turn = rotation(layout, tile["key_codes"].device)
    scaled = tile["key_codes"] * tile["key_scale"].float().unsqueeze(-2)
    keys = (scaled + tile["key_zero"].unsqueeze(-2)) * tile["key_token_scale"].unsqueeze(-1)
    scaled = tile["value_codes"] * tile["value_scale"].float().unsqueeze(-1)
    values = scaled + tile["value_zero"].unsqueeze(-1)
    return keys @ turn, values @ turn


def _quantise_keys(tile_format: TileFormat, keys: torch.Tensor) -> Tile:
    token_scale = token_scales(keys).half()
    flat = keys / token_scale
    scale, zero = _grid(flat, axis=-2, bits=tile_format.key_bits, part=tile_format.key_range)
    return {
        "key_codes": _codes(flat, scale=scale, zero=zero, bits=tile_format.key_bits),
        "key_scale": scale.squeeze(-2),
        "key_zero": zero.squeeze(-2),
        "key_token_scale": token_scale.squeeze(-1),
    }


def _quantise_values(tile_format: TileFormat, values: torch.Tensor) -> Tile:
    bits = tile_format.value_bits
    scale, zero = _grid(values, axis=-1, bits=bits, part=tile_format.value_range)
    return {
        "value_codes": _codes(values, scale=scale, zero=zero, bits=bits),
        "value_scale": scale.squeeze(-1),
        "value_zero": zero.squeeze(-1),
    }


def token_scales(keys: torch.Tensor, iterations: int = ITERATIONS) -> torch.Tensor:
    """Variance normalisation: factors of the tokens that leave a tile flat along both axes.

    Tokens and channels are divided by their root mean squares in turn. The factors of the channels
    are not returned, because the steps of the channels' codes absorb them. The tile is divided by
    its own first, so that its magnitude does not matter to the lower bound on a row's.

    Args:
        keys: rotated, float32 ``[…, 128, D]``.
        iterations: how often both axes are visited.

    Returns:
        float32 ``[…, 128, 1]``.
    """
    whole = _root_mean_square(keys, axes=(-2, -1)).clamp(min=_SMALLEST_STEP)
    flat = keys / whole
    tokens = whole.expand(*keys.shape[:-1], 1)
    for _ in range(iterations):
        factor = _root_mean_square(flat, axes=(-1,)).clamp(min=_LEAST_OF_A_ROW)
        tokens = tokens * factor
        flat = flat / factor
        flat = flat / _root_mean_square(flat, axes=(-2,)).clamp(min=_LEAST_OF_A_ROW)
    return tokens.clamp(min=_SMALLEST_STEP)


def _root_mean_square(rows: torch.Tensor, *, axes: tuple[int, ...]) -> torch.Tensor:
    return rows.square().mean(dim=axes, keepdim=True).sqrt()


def _grid(
    rows: torch.Tensor, *, axis: int, bits: int, part: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Step and value of code 0 of each row, as stored: float16, the axis kept with size 1."""
    low = rows.amin(dim=axis, keepdim=True)
    high = rows.amax(dim=axis, keepdim=True)
    spread = (high - low) * part
    step = spread / ((1 << bits) - 1)
    zero = (low + high - spread) / 2
    return step.half().clamp(min=_SMALLEST_STEP), zero.half()


def _codes(
    rows: torch.Tensor, *, scale: torch.Tensor, zero: torch.Tensor, bits: int
) -> torch.Tensor:
    """Nearest codes on the grid as it is stored, so that rounding the grid costs nothing."""
    return ((rows - zero) / scale.float()).round().clamp(0, (1 << bits) - 1).to(torch.int16)


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
