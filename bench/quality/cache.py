"""Attention through a cache format, exactly as a server would compute it.

For formats that keep the open tile, a query sees its own tile of 128 tokens raw and every earlier
one as it comes back from the cache; the others store each token at once, so that a query sees even
its own through the cache. All formats get keys and values at bf16, as the model's would be.
"""

import torch
from torch import Tensor
from torch.nn import functional

from bench.formats.method import Method
from kvarn.format.layout import TILE_TOKENS


class Parallel:
    """Attention of a whole sequence at once (teacher forcing)."""

    def __init__(self, method: Method | None) -> None:
        """A method of None leaves keys and values in bf16."""
        self._method = method

    def __call__(self, _layer: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Causal attention; query ``[B, Hq, T, D]``, keys and values ``[B, Hkv, T, D]``."""
        raw = as_bf16(keys), as_bf16(values)
        if self._method is None:
            return _causal(query, *raw)
        stored = through(self._method, *raw)
        if not self._method.keeps_open_tile:
            return _causal(query, *stored)
        return _own_tile_raw(query, raw, stored)


class Growing:
    """The cache of sequences that grow by a token at a time, for all layers; each gets its own.

    Once a tile is full and the next token comes, its place holds what the format gives back.
    """

    def __init__(self, method: Method | None, tokens: int) -> None:
        """Room for so many tokens."""
        self._method, self._tokens = method, tokens
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.length = 0

    def __call__(self, layer: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of new tokens, all of them one or all of a prompt."""
        if layer not in self._layers:
            shape = (*keys.shape[:2], self._tokens, keys.shape[3])
            self._layers[layer] = (keys.new_zeros(shape), keys.new_zeros(shape))
        held, end = self._layers[layer], self.length + keys.shape[2]
        if keys.shape[2] > 1:
            out = Parallel(self._method)(layer, query, keys, values)
            self._write(held, keys, values)
            self._close(held, 0, end // TILE_TOKENS * TILE_TOKENS)
            return out
        self._write(held, keys, values)
        self._close_before(held)
        seen_keys, seen_values = (rows[:, :, :end] for rows in held)
        return functional.scaled_dot_product_attention(
            query, seen_keys, seen_values, enable_gqa=True
        )

    def _write(self, held: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> None:
        raw = as_bf16(keys), as_bf16(values)
        if self._method and not self._method.keeps_open_tile:
            raw = through(self._method, *raw)
        for rows, new in zip(held, raw, strict=True):
            rows[:, :, self.length : self.length + keys.shape[2]] = new

    def _close_before(self, held: tuple[Tensor, Tensor]) -> None:
        """Store the tile that the token now written comes after, if it begins one."""
        if self.length and self.length % TILE_TOKENS == 0:
            self._close(held, self.length - TILE_TOKENS, self.length)

    def _close(self, held: tuple[Tensor, Tensor], start: int, end: int) -> None:
        if self._method and self._method.keeps_open_tile and end > start:
            tiles = (rows[:, :, start:end] for rows in held)
            for rows, stored in zip(held, self._method.through(*tiles), strict=True):
                rows[:, :, start:end] = stored


def as_bf16(rows: Tensor) -> Tensor:
    """The numbers rounded to bf16, in their own type."""
    return rows.bfloat16().to(rows.dtype)


def through(method: Method, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Whole tiles as they come back; a sequence is filled up for methods that take tiles."""
    tokens = keys.shape[2]
    missing = -tokens % TILE_TOKENS
    filled = (functional.pad(rows, (0, 0, 0, missing)) for rows in (keys, values))
    back_keys, back_values = method.stored(*filled)
    return back_keys[:, :, :tokens], back_values[:, :, :tokens]


def _causal(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(
        query, keys, values, is_causal=True, enable_gqa=True
    )


def _own_tile_raw(
    query: Tensor, raw: tuple[Tensor, Tensor], stored: tuple[Tensor, Tensor]
) -> Tensor:
    """Two products in one softmax; the last tile, open or not, never counts as stored."""
    tile = torch.arange(query.shape[2], device=query.device) // TILE_TOKENS
    earlier = tile[None, :] < tile[:, None]
    positions = torch.arange(query.shape[2], device=query.device)
    own = (tile[None, :] == tile[:, None]) & (positions[None, :] <= positions[:, None])
    keys, values = (torch.cat(pair, dim=2) for pair in zip(stored, raw, strict=True))
    return functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=torch.cat([earlier, own], dim=1), enable_gqa=True
    )
