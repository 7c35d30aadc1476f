"""A look into the pages of an engine's pool, and a hand in them."""

from typing import Any

import torch
from vllm import LLM
from vllm.model_executor.layers.attention import Attention

from kvarn.engine.tail import TailLayer
from kvarn.format.layout import TILE_TOKENS
from kvarn.format.packing import decode, encode
from kvarn.format.reference import dequantise, quantise
from tests.engine.engines import complete, scheduler, start

POISON = 0xFF
"""A byte that makes a NaN of a number of any width."""


def compare_pages(
    *, model: str, options: dict[str, Any], prompt: list[int]
) -> list[dict[str, Any]]:
    """For each layer, what its pages hold after a prompt, against what the model computed.

    Returns:
        ``pages``: how many pages equal the reference's bytes of each closed tile; ``errors``: the
        relative errors of the keys and of the values in them; ``bytes``: of one tile.
    """
    llm = start(model, options)
    seen: dict[str, list[torch.Tensor]] = {}
    layers = layers_of(llm, Attention)
    for layer in layers:
        layer.register_forward_pre_hook(
            lambda module, rows: seen.__setitem__(
                module.layer_name, [row.clone() for row in rows[1:]]
            )
        )
    complete(llm, [prompt], 1)
    return [_compare(layer, *seen[layer.layer_name]) for layer in layers]


def forget_pages(
    *, model: str, options: dict[str, Any], prompt: list[int], tokens: int
) -> list[Any]:
    """Tokens of one prompt three times: fresh; from pages wiped to zero; from pages put back."""
    llm = start(model, options | {"enable_prefix_caching": True})
    packed = [layer.kv_cache for layer in layers_of(llm, Attention)]
    first = complete(llm, [prompt], tokens)
    kept = [pages.clone() for pages in packed]
    for pages in packed:
        pages.zero_()
    wiped = complete(llm, [prompt], tokens)
    for pages, before in zip(packed, kept, strict=True):
        pages.copy_(before)
    back = complete(llm, [prompt], tokens)
    return [list(run[0].outputs[0].token_ids) for run in (first, wiped, back)]


class PoisonedPool:
    """A pool in which whatever no sequence and no prefix owns is poison, block 0 among it."""

    def __init__(self, llm: LLM) -> None:
        self._blocks = scheduler(llm).kv_cache_manager.block_pool
        (tails,) = layers_of(llm, TailLayer)
        packed = [layer.kv_cache for layer in layers_of(llm, Attention)]
        self._pages = [pages.view(torch.uint8) for pages in (*packed, *tails.kv_cache)]
        self._fill([0])

    def poison(self) -> int:
        """Fill the free blocks that no cached prefix lies in, and say how many those are."""
        free = self._blocks.free_block_queue.get_all_free_blocks()
        unowned = [block.block_id for block in free if block.block_hash is None]
        self._fill(unowned)
        return len(unowned)

    def block_0_is_untouched(self) -> bool:
        """Whether block 0 holds poison and nothing else."""
        return all(bool((pages[0] == POISON).all()) for pages in self._pages)

    def _fill(self, blocks: list[int]) -> None:
        for pages in self._pages:
            pages[blocks] = POISON


def tiles_of(
    layer: Any, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Complete tiles ``[n, H, 128, D]`` of the rows of a sequence, as the model made them."""
    count, heads = len(keys) // TILE_TOKENS, layer.num_kv_heads
    keys, values = (
        rows.view(len(rows), heads, -1)[: count * TILE_TOKENS]
        .view(count, TILE_TOKENS, heads, -1)
        .transpose(1, 2)
        for rows in (keys, values)
    )
    return keys, values


def found_pages(
    layer: Any, keys: torch.Tensor, values: torch.Tensor
) -> tuple[torch.Tensor, list[int]]:
    """A page for each of n tiles that holds the reference's bytes of it, and how many there are."""
    want = encode(layer.impl.layout, quantise(layer.impl.layout, keys, values))
    stored = layer.kv_cache.flatten(-2)
    same = (stored[:, None] == want).all(dim=-1).all(dim=-1)
    return stored[same.int().argmax(dim=0)], same.sum(dim=0).tolist()


def layers_of(llm: LLM, kind: type) -> list[Any]:
    """The engine's layers with a cache, of one class."""
    context = llm.llm_engine.vllm_config.compilation_config.static_forward_context
    return [layer for layer in context.values() if isinstance(layer, kind)]


def _compare(layer: Any, keys: torch.Tensor, values: torch.Tensor) -> dict[str, Any]:
    layout, tiles = layer.impl.layout, tiles_of(layer, keys, values)
    found, equal = found_pages(layer, *tiles)
    errors = [
        float((got - row).norm() / row.norm())
        for got, row in zip(dequantise(layout, decode(layout, found)), tiles, strict=True)
    ]
    return {"pages": equal, "errors": errors, "bytes": layout.tile_bytes}
