"""Reading and writing the cache's pages.

A *packed page* holds one tile per KV head, a *tail page* the open tile of one sequence with keys
and values side by side. The caches are vLLM's views of its block pool: pages are far apart, each
head inside a page is contiguous.
"""

import torch

from kvarn.format.layout import TileLayout
from kvarn.format.packing import decode, encode
from kvarn.format.reference import Tile, quantise


def store_tiles(
    layout: TileLayout,
    cache: torch.Tensor,
    pages: torch.Tensor,
    *,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> None:
    """Quantise complete tiles into their pages.

    Args:
        layout: format and head dimension.
        cache: uint8 ``[blocks, H, 128, bytes_per_token]``.
        pages: ``[n]``, none of them the null page.
        keys: ``[n, H, 128, D]`` as the model made them.
        values: likewise.
    """
    tiles = encode(layout, quantise(layout, keys, values))
    cache[pages] = tiles.view(len(pages), *cache.shape[1:])


def load_tiles(layout: TileLayout, cache: torch.Tensor, pages: torch.Tensor) -> Tile:
    """Tiles of pages ``[n]``: arrays ``[n, H, …]`` with the codes unpacked."""
    # Whole words: gathering single bytes takes as many steps as there are bytes.
    words = cache.flatten(1).view(torch.int64).index_select(0, pages)
    return decode(layout, words.view(torch.uint8).view(len(pages), cache.shape[1], -1))


def write_tail(
    tail: torch.Tensor,
    pages: torch.Tensor,
    rows: torch.Tensor,
    *,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> None:
    """Put tokens into the tails of their sequences.

    Args:
        tail: ``[blocks, H, 128, 2·D]`` of the model's type.
        pages: ``[n]``, none of them the null page.
        rows: ``[n]`` row of each token in its tile.
        keys: ``[n, H, D]``.
        values: ``[n, H, D]``.
    """
    tail[pages, :, rows] = torch.cat([keys, values], dim=-1)


def load_tail(tail: torch.Tensor, pages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values ``[n, H, 128, D]`` of tail pages ``[n]``; rows not yet written are old."""
    keys, values = tail[pages].chunk(2, dim=-1)
    return keys, values
