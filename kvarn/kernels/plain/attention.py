"""Attention of one layer over packed tiles and raw open tiles, and what it leaves in the cache."""

from dataclasses import dataclass

import torch

from kvarn.format.hadamard import rotation
from kvarn.format.layout import TILE_TOKENS, TileLayout
from kvarn.format.reference import Tile, middle
from kvarn.kernels.batch import LayerCache
from kvarn.kernels.plain.pages import load_tail, load_tiles, store_tiles, write_tail
from kvarn.kernels.plain.step import Queries, Step


def attend_and_store(
    step: Step,
    cache: LayerCache,
    *,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scale: float,
    out: torch.Tensor,
    soft_cap: float = 0.0,
) -> None:
    """Compute one layer's attention of a batch and bring its cache up to date.

    Args:
        step: the batch.
        cache: the layer's pages.
        query: ``[tokens, Hq, D]``; H divides Hq.
        keys: ``[tokens, H, D]`` of the new tokens.
        values: ``[tokens, H, D]``.
        scale: factor of the scores.
        out: ``[tokens, Hq, D]``, written for every token of the step.
        soft_cap: c, where scores s become c · tanh(s / c); 0 for none.
    """
    own_keys, own_values = _own_tiles(step, cache, keys, values)
    if len(step.closed):
        closed_keys, closed_values = own_keys[step.closed], own_values[step.closed]
        store_tiles(
            *(cache.layout, cache.packed, step.closed_page),
            keys=closed_keys,
            values=closed_values,
        )
        if cache.faults is not None:
            for rows in (closed_keys, closed_values):
                cache.faults.add_((~rows.isfinite()).sum())
    for queries in step.queries:
        own = own_keys[queries.segment].float(), own_values[queries.segment].float()
        asked = query[queries.token].float() * scale
        result = _attend(queries, cache, asked, own, soft_cap=soft_cap)
        out[queries.target] = result.flatten(0, 1)[queries.new].to(out.dtype)
    if len(step.open_token):
        write_tail(
            cache.tail,
            cache.tail_page[step.open_sequence],
            step.open_row,
            keys=keys[step.open_token],
            values=values[step.open_token],
        )


def _own_tiles(
    step: Step, cache: LayerCache, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tile of each segment as far as it has come, ``[S, H, 128, D]``; zeros after that."""
    own_keys, own_values = (rows[step.token].transpose(1, 2) for rows in (keys, values))
    row = torch.arange(TILE_TOKENS, device=keys.device)
    if len(step.resumed):
        old_keys, old_values = load_tail(cache.tail, cache.tail_page[step.resumed_sequence])
        old = (row < step.resumed_rows[:, None])[:, None, :, None]
        own_keys[step.resumed] = torch.where(old, old_keys, own_keys[step.resumed])
        own_values[step.resumed] = torch.where(old, old_values, own_values[step.resumed])
    ahead = (row >= step.end[:, None])[:, None, :, None]
    return own_keys.masked_fill(ahead, 0), own_values.masked_fill(ahead, 0)


@dataclass
class _Softmax:
    """A softmax over keys that arrive tile by tile.

    Attributes:
        peak: ``[N, H, M, 1]`` largest score so far.
        total: ``[N, H, M, 1]`` sum of the weights, relative to the peak.
        out: ``[N, H, M, D]`` weighted values, rotated.
    """

    peak: torch.Tensor
    total: torch.Tensor
    out: torch.Tensor

    def weigh(self, scores: torch.Tensor) -> torch.Tensor:
        """Weights of new scores ``[n, H, M, 128]`` for the first n rows, which are rescaled."""
        peak, total, out = (part[: len(scores)] for part in (self.peak, self.total, self.out))
        higher = torch.maximum(peak, scores.amax(dim=-1, keepdim=True))
        fade = (peak - higher).exp()
        weights = (scores - higher).exp()
        peak.copy_(higher)
        total.mul_(fade).add_(weights.sum(dim=-1, keepdim=True))
        out.mul_(fade)
        return weights


def _attend(
    queries: Queries,
    cache: LayerCache,
    query: torch.Tensor,
    own: tuple[torch.Tensor, torch.Tensor],
    *,
    soft_cap: float,
) -> torch.Tensor:
    """Attention of N segments' queries ``[N, R, Hq, D]``, scaled; the same shape comes back."""
    own_keys, own_values = own
    count, width, _, channels = query.shape
    heads = own_keys.shape[1]
    turn = rotation(cache.layout, query.device)
    rows = query.view(count, width, heads, -1, channels).permute(0, 2, 3, 1, 4)
    group = rows.shape[2]
    rows = rows.reshape(count, heads, group * width, channels)

    visible = torch.arange(TILE_TOKENS, device=query.device) <= queries.row[..., None]
    visible = visible[:, None].repeat(1, 1, group, 1)
    scores = _capped(rows @ own_keys.mT, soft_cap).masked_fill(~visible, -torch.inf)
    state = _Softmax(
        peak=scores.amax(dim=-1, keepdim=True),
        total=torch.zeros_like(rows[..., :1]),
        out=torch.zeros_like(rows),
    )
    state.out += state.weigh(scores) @ own_values @ turn
    turned = rows @ turn
    for tile, reach in enumerate(queries.reach):
        stored = load_tiles(cache.layout, cache.packed, queries.history[:reach, tile])
        scores = _capped(_scores(cache.layout, stored, turned[:reach]), soft_cap)
        weights = state.weigh(scores)
        state.out[:reach] += _combine(cache.layout, stored, weights)
    out = (state.out / state.total) @ turn
    out = out.view(count, heads, group, width, channels).permute(0, 3, 1, 2, 4)
    return out.flatten(2, 3)


def _capped(scores: torch.Tensor, soft_cap: float) -> torch.Tensor:
    return soft_cap * (scores / soft_cap).tanh() if soft_cap else scores


def _scores(layout: TileLayout, tile: Tile, query: torch.Tensor) -> torch.Tensor:
    """Products ``[n, H, M, 128]`` of rotated queries ``[n, H, M, D]`` with a tile's keys.

    The channels' scales go into the queries and the tokens' into the products, so that the large
    product is with the codes themselves.
    """
    if layout.format.is_raw:
        return query @ tile["keys"].mT
    codes = tile["key_codes"] - middle(layout.format.key_bits)
    scaled = query * tile["key_channel_scale"].float().unsqueeze(-2)
    products = scaled @ codes.mT * tile["key_token_scale"].float().unsqueeze(-2)
    mean: torch.Tensor = query @ tile["key_mean"].float().unsqueeze(-1)
    return products + mean


def _combine(layout: TileLayout, tile: Tile, weights: torch.Tensor) -> torch.Tensor:
    """Sums ``[n, H, M, D]`` of a tile's rotated values under weights ``[n, H, M, 128]``."""
    if layout.format.is_raw:
        return weights @ tile["values"]
    codes = tile["value_codes"] - middle(layout.format.value_bits)
    scaled = weights * tile["value_token_scale"].float().unsqueeze(-2)
    sums = scaled @ codes * tile["value_channel_scale"].float().unsqueeze(-2)
    return sums + weights.sum(dim=-1, keepdim=True) * tile["value_mean"].float().unsqueeze(-2)
