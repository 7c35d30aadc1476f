"""One layer's work in a step, in the order of the contract: store, attend, write the tails.

In a step of single tokens the first two may come at once.
"""

import torch

from kvarn.format.layout import TILE_TOKENS, TileLayout
from kvarn.kernels.batch import LayerCache
from kvarn.kernels.library import Prompts
from kvarn.kernels.triton.arguments import Attention, SingleTokens, Store, compute_type
from kvarn.kernels.triton.butterfly import rotate_queries
from kvarn.kernels.triton.decode import attend_few
from kvarn.kernels.triton.flash import attend_prompts
from kvarn.kernels.triton.memory import scratch
from kvarn.kernels.triton.parts import Cut, even_cut, fixed_cut, is_roomy, processors
from kvarn.kernels.triton.prefill import attend_many
from kvarn.kernels.triton.rotate import padded_channels
from kvarn.kernels.triton.step import Step
from kvarn.kernels.triton.store import store_tiles
from kvarn.kernels.triton.tail import write_tails

FEW_TOKENS = 8
"""Most new tokens of a sequence in a step without prefill."""


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
    batch_invariant: bool = False,
    store: Store | None = None,
    single_tokens: SingleTokens | None = None,
    prompts: Prompts | None = None,
) -> None:
    """Compute one layer's attention of a batch and bring its cache up to date.

    Args:
        step: the batch. Where its tokens are single, no sequence may read a tile that the token of
            another completes.
        cache: the layer's pages.
        query: ``[tokens, Hq, D]``; H divides Hq. Channels are contiguous, here and below.
        keys: ``[tokens, H, D]`` of the new tokens.
        values: ``[tokens, H, D]``.
        scale: factor of the scores.
        out: ``[tokens, Hq, D]``, written for every token of the step.
        soft_cap: c, where scores s become c · tanh(s / c); 0 for none.
        batch_invariant: make a query's result independent of what else is in the batch, bit for
            bit, and of the chunks in which its sequence came. Long prompts take longer.
        store: what stores complete tiles, where it can.
        single_tokens: what attends segments of one token and keeps them in the tails, where it can;
            in a step that has no others it does all.
        prompts: what attends those of several tokens, where it can.
    """
    attention = Attention(
        query=query, keys=keys, values=values, out=out, scale=scale, soft_cap=soft_cap
    )
    single = step.batch.most_new == 1
    if single and single_tokens and single_tokens(step, cache, attention, stores=True):
        return
    if not (store and store(step, cache, keys=keys, values=values, faults=cache.faults)):
        store_tiles(step, cache, keys=keys, values=values, faults=cache.faults)
    tails_are_written = attend(
        step,
        cache,
        attention,
        batch_invariant=batch_invariant,
        single_tokens=single_tokens,
        prompts=prompts,
    )
    if not tails_are_written:
        write_tails(step, cache, keys=keys, values=values)


def attend(
    step: Step,
    cache: LayerCache,
    attention: Attention,
    *,
    batch_invariant: bool = False,
    cut: Cut | None = None,
    single_tokens: SingleTokens | None = None,
    prompts: Prompts | None = None,
) -> bool:
    """Compute one layer's attention of a batch, complete tiles stored and tails not yet written.

    Args:
        step: the batch.
        cache: the layer's pages.
        attention: what is asked.
        batch_invariant: as in :func:`attend_and_store`.
        cut: of segments of few tokens; chosen by the batch and the device if there is none.
        single_tokens: as in :func:`attend_and_store`.
        prompts: as in :func:`attend_and_store`.

    Returns:
        whether the tails are written already.
    """
    layout = cache.layout
    alone = step.batch.most_new == 1
    if alone and single_tokens and single_tokens(step, cache, attention):
        return True
    few = _few(step, attention, layout, batch_invariant=batch_invariant)
    many = few < min(step.batch.most_new, TILE_TOKENS)
    # Segments of several tokens come first: a library writes rows of single tokens as well, and
    # single tokens go into tails that other segments of their sequence read.
    if many and few == 1 and prompts and attend_prompts(step, cache, attention, prompts):
        many = False
    if many:
        rotated = _rotated(layout, attention.query)
        attend_many(step, cache, attention, rotated, few=few)
    if few == 1 and not alone and single_tokens and single_tokens(step, cache, attention):
        return False
    if not many:
        rotated = _rotated(layout, attention.query)
    if few and rotated is not None:
        cut = cut or _cut(step, attention, layout, few=few, batch_invariant=batch_invariant)
        attend_few(step, cache, attention, rotated, few=few, cut=cut)
    return False


def _rotated(layout: TileLayout, query: torch.Tensor) -> torch.Tensor | None:
    """Queries as packed keys need them, in scratch memory."""
    if layout.format.is_raw:
        return None
    shape = (*query.shape[:2], padded_channels(layout))
    rotated = scratch(query.device).rotated(shape, compute_type(layout, query.dtype))
    rotate_queries(layout, query, rotated)
    return rotated


def _few(step: Step, attention: Attention, layout: TileLayout, *, batch_invariant: bool) -> int:
    """Tokens up to which a segment is attended in parts.

    Float32 is for tests, and has products of its own. Tiles of 512 channels in 3 bits are unpacked
    through 141,312 bytes of shared memory in parts, which not every GPU has.

    Where results must not depend on the batch every segment is: a token may come alone in one batch
    and with a whole prompt in another.
    """
    if compute_type(layout, attention.query.dtype) == torch.float32:
        return 0
    bits = (layout.format.key_bits, layout.format.value_bits)
    if 3 in bits and layout.head_dim > 256 and not is_roomy():
        return 0
    most = min(step.batch.most_new, TILE_TOKENS)
    return most if batch_invariant or most <= FEW_TOKENS else 1


def _cut(
    step: Step, attention: Attention, layout: TileLayout, *, few: int, batch_invariant: bool
) -> Cut:
    batch = step.batch
    tiles = (batch.longest - 1) // TILE_TOKENS
    if batch_invariant:
        return fixed_cut(layout, group=attention.group, tiles=tiles)
    return even_cut(
        layout,
        rows=few * attention.group,
        histories=len(batch.lengths) * attention.keys.shape[1],
        tiles=tiles,
        processors=processors(attention.query.device),
    )
