"""Prompts attended by FlashAttention, on keys and values as the model made them.

Attention of many queries is limited by arithmetic, and a library for it is hard to beat. What it
reads is written into scratch memory first, a few bytes for each hundred of its products; what does
not fit there is attended in pieces, whose results are joined.
"""

import torch

from kvarn.format.layout import TILE_TOKENS
from kvarn.format.scratch import dense_pages
from kvarn.kernels.batch import Counts, LayerCache
from kvarn.kernels.library import Flash, Prompts
from kvarn.kernels.triton.arguments import Attention, compute_type
from kvarn.kernels.triton.dequantise import write_pages
from kvarn.kernels.triton.join import join
from kvarn.kernels.triton.memory import scratch
from kvarn.kernels.triton.parts import processors
from kvarn.kernels.triton.pieces import cut
from kvarn.kernels.triton.places import Places
from kvarn.kernels.triton.step import Step

BLOCK_ROWS = 128
"""Query rows of a program of the library."""


def attend_prompts(step: Step, cache: LayerCache, attention: Attention, prompts: Prompts) -> bool:
    """Attention of the segments that have more than one token, if the library can.

    Rows of other segments are written as well, and mean nothing.

    Args:
        step: the batch.
        cache: the layer's pages, complete tiles stored and tails not yet written.
        attention: what is asked.
        prompts: the library.

    Returns:
        whether it was done; if not, nothing was.
    """
    query, counts = attention.query, step.batch.counts
    is_half = compute_type(cache.layout, query.dtype) == torch.float16
    flash = prompts(cache.layout.head_dim) if is_half and counts else None
    if flash is None or counts is None:
        return False
    heads = attention.keys.shape[1]
    pages = dense_pages(
        tokens=len(query),
        kv_heads=heads,
        head_dim=cache.layout.head_dim,
        element_bytes=query.itemsize,
    )
    memory = scratch(query.device)
    dense = memory.dense(pages, query, heads)
    for places in _all_places(step, counts, pages):
        write_pages(step, cache, attention, places, dense)
        piece = places.piece
        if piece.stop is None:
            exponents = _attend(flash, step, attention, places, dense, attention.out)
            continue
        more = memory.rotated(query.shape, query.dtype)
        more_exponents = _attend(flash, step, attention, places, dense, more)
        join(
            (attention.out, exponents),
            (more, more_exponents),
            starts=step.batch.starts,
            sequence=piece.first,
            most=counts.new[piece.first],
        )
    return True


def _all_places(step: Step, counts: Counts, pages: int) -> list[Places]:
    """Those of the step's pieces, made by the first layer that has so many pages."""
    key = ("places", pages)
    if key not in step.made:
        step.made[key] = [Places.of(step, piece) for piece in cut(counts, pages=pages)]
    made: list[Places] = step.made[key]
    return made


def _attend(
    flash: Flash,
    step: Step,
    attention: Attention,
    places: Places,
    dense: torch.Tensor,
    out: torch.Tensor,
) -> torch.Tensor:
    """One call; returns the logarithms of the sums ``[Hq, tokens]``."""
    query = attention.query
    rows = query.shape[0] * query.shape[1]
    fills_device = rows >= BLOCK_ROWS * processors(query.device)
    _, exponents = flash(
        q=query,
        k=dense[0],
        v=dense[1],
        out=out,
        cu_seqlens_q=places.starts,
        max_seqlen_q=min(step.batch.most_new, TILE_TOKENS),
        seqused_k=places.lengths,
        max_seqlen_k=places.piece.width * TILE_TOKENS,
        block_table=places.table,
        softmax_scale=attention.scale,
        softcap=attention.soft_cap,
        causal=places.piece.stop is None,
        # Where it chooses itself, it takes memory for the parts of histories that it might make.
        num_splits=1 if fills_device else 0,
        return_softmax_lse=True,
    )
    return exponents
