"""Tiles as bytes: codes into words, arrays into their places."""

from collections.abc import Mapping

import torch

from kvarn.format.layout import WORD_BITS, Field, TileLayout

_ELEMENTS = {"int16": torch.int16, "float16": torch.float16, "float32": torch.float32}


def pack_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Put codes into words, plane by plane.

    Args:
        codes: integers of any type in ``[0, 2**bits)``, ``[…, D]``.
        bits: width of a code, a divisor of 16.

    Returns:
        int16 ``[…, D·bits/16]``.
    """
    planes = codes.to(torch.int32).reshape(*codes.shape[:-1], WORD_BITS // bits, -1)
    fields: torch.Tensor = planes << _shifts(bits, codes.device)
    return fields.sum(dim=-2).to(torch.int16)


def unpack_codes(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of :func:`pack_codes`.

    Returns:
        int16 ``[…, D]``.
    """
    return _fields(words.unsqueeze(-2), _shifts(bits, words.device), bits).flatten(-2)


def _unpack_rows(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes int16 ``[…, D, n]`` of words ``[…, W, n]``, without turning them about in memory."""
    shifts = _shifts(bits, words.device).unsqueeze(-1)
    return _fields(words.unsqueeze(-3), shifts, bits).flatten(-3, -2)


def _fields(words: torch.Tensor, shifts: torch.Tensor, bits: int) -> torch.Tensor:
    fields: torch.Tensor = words >> shifts.to(torch.int16)
    return fields.bitwise_and_((1 << bits) - 1)


def _shifts(bits: int, device: torch.device) -> torch.Tensor:
    return torch.arange(0, WORD_BITS, bits, dtype=torch.int32, device=device).unsqueeze(-1)


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
        uint8 ``[…, tile_bytes]``; bytes that belong to no array are zero.
    """
    first = next(iter(tile.values()))
    lead = first.shape[: first.dim() - len(next(iter(layout.fields.values())).shape)]
    tiles = torch.zeros(*lead, layout.tile_bytes, dtype=torch.uint8, device=first.device)
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
        "value_codes": _unpack_rows(tile["value_codes"], layout.format.value_bits).mT,
    }


def _with_words(layout: TileLayout, tile: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    return {
        **tile,
        "key_codes": pack_codes(tile["key_codes"], layout.format.key_bits),
        "value_codes": pack_codes(tile["value_codes"], layout.format.value_bits).mT,
    }
