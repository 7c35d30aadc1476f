"""Tiles as bytes: codes into words, arrays into their places."""

from collections.abc import Mapping

import torch

from kvarn.format.layout import WORD_BITS, Field, TileLayout

_ELEMENTS = {"int16": torch.int16, "float16": torch.float16, "float32": torch.float32}


def pack_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Put codes into words, plane by plane.

    Args:
        codes: integers of any type in ``[0, 2**bits)``, ``[…, D]``.
        bits: width of a code: 3 or a divisor of 16.

    Returns:
        int16 ``[…, D·bits/16]``.
    """
    if bits == 3:
        return torch.cat([pack_codes(codes & 3, 2), pack_codes(codes >> 2, 1)], dim=-1)
    planes = codes.to(torch.int32).reshape(*codes.shape[:-1], WORD_BITS // bits, -1)
    fields: torch.Tensor = planes << _shifts(bits, codes.device).unsqueeze(-1)
    return fields.sum(dim=-2).to(torch.int16)


def unpack_codes(words: torch.Tensor, bits: int, axis: int = -1) -> torch.Tensor:
    """The inverse of :func:`pack_codes`.

    Args:
        words: int16, with D·bits/16 words along the axis.
        bits: width of a code.
        axis: counted from the end, so that nothing is turned about in memory.

    Returns:
        int16, D codes along the axis.
    """
    if bits == 3:
        high_words = words.shape[axis] // 3
        low = words.narrow(axis, 0, 2 * high_words)
        high = words.narrow(axis, 2 * high_words, high_words)
        return unpack_codes(low, 2, axis).add_(unpack_codes(high, 1, axis), alpha=4)
    shifts = _shifts(bits, words.device).view(-1, *(1,) * -axis)
    fields: torch.Tensor = words.unsqueeze(axis - 1) >> shifts.to(torch.int16)
    return fields.bitwise_and_((1 << bits) - 1).flatten(axis - 1, axis)


def _shifts(bits: int, device: torch.device) -> torch.Tensor:
    return torch.arange(0, WORD_BITS, bits, dtype=torch.int32, device=device)


def arrays(layout: TileLayout, tiles: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """The arrays inside tiles, as views.

    Args:
        layout: where each array lies.
        tiles: uint8 ``[…, tile_bytes]``, the last dimension contiguous.

    Returns:
        ``[…, *shape]`` by name, of the layout's types.
    """
    return {name: _array(field, tiles) for name, field in layout.fields.items()}


def _array(field: Field, tiles: torch.Tensor) -> torch.Tensor:
    flat: torch.Tensor = tiles[..., field.offset_bytes : field.end_bytes].view(
        _ELEMENTS[field.element]
    )
    array: torch.Tensor = flat.view(*tiles.shape[:-1], *field.shape)
    return array


def encode(layout: TileLayout, tile: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Bytes of tiles from their unpacked arrays.

    Returns:
        uint8 ``[…, tile_bytes]``.
    """
    first = next(iter(tile.values()))
    lead = first.shape[: first.dim() - len(next(iter(layout.fields.values())).shape)]
    tiles = torch.empty(*lead, layout.tile_bytes, dtype=torch.uint8, device=first.device)
    packed = tile if layout.format.is_raw else _with_words(layout, tile)
    for name, place in arrays(layout, tiles).items():
        place.copy_(packed[name])
    return tiles


def decode(layout: TileLayout, tiles: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """The inverse of :func:`encode`: arrays with the codes unpacked to int16 ``[…, 128, D]``."""
    tile = arrays(layout, tiles)
    if layout.format.is_raw:
        return tile
    return {
        **tile,
        "key_codes": unpack_codes(tile["key_codes"], layout.format.key_bits),
        "value_codes": unpack_codes(tile["value_codes"], layout.format.value_bits, axis=-2).mT,
    }


def _with_words(layout: TileLayout, tile: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    return {
        **tile,
        "key_codes": pack_codes(tile["key_codes"], layout.format.key_bits),
        "value_codes": pack_codes(tile["value_codes"], layout.format.value_bits).mT,
    }
