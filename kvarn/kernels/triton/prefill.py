"""Segments of many tokens: packed tiles unpacked whole, for as many queries as fit.

A program takes M query rows of one segment and KV head, over all packed tiles before the segment
and then the segment's own tile. Its work on a tile's bytes is shared by M queries, so codes become
ordinary keys and values first, in the order of the model's channels or of the rotated queries.
"""

import torch
import triton
import triton.language as tl

from kvarn.format.layout import TILE_TOKENS, TileLayout
from kvarn.kernels.batch import LayerCache
from kvarn.kernels.triton.arguments import (
    Attention,
    Pages,
    Rows,
    Sequences,
    as_triton,
    compute_type,
)
from kvarn.kernels.triton.butterfly import group_channel, turned
from kvarn.kernels.triton.dense import load_rows
from kvarn.kernels.triton.own import Own, channel_places, operand, own_keys, own_of, own_values
from kvarn.kernels.triton.packed import History, history_of, page_at, tile_in
from kvarn.kernels.triton.parts import is_roomy
from kvarn.kernels.triton.queries import Asked, pointers, rotated_pointers, rows_asked, segment_at
from kvarn.kernels.triton.scores import LOWEST, as_exponents, score_factor, weigh
from kvarn.kernels.triton.step import TILE, Step


@triton.jit
def _add(
    sums: tl.tensor,
    peak: tl.tensor,
    total: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    visible: tl.tensor | None,
    factor: tl.tensor,
    CAP: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Take in T keys and values.

    Args:
        sums: ``[M, K]``.
        peak: ``[M]``.
        total: ``[M]``.
        queries: ``[M, K]``.
        keys: ``[K, T]``.
        values: ``[T, K]``.
        visible: ``[M, T]`` which query sees which key; None if all see all.
        factor: of the products.
        CAP: of the scores.
    """
    products = tl.dot(queries, keys, input_precision="ieee") * factor
    scores = as_exponents(products, CAP)
    if visible is not None:
        scores = tl.where(visible, scores, -float("inf"))
    weights, fade, peak, total = weigh(scores, peak, total, 1)
    weights = weights.to(values.dtype)
    sums = tl.dot(weights, values, sums * fade[:, None], input_precision="ieee")
    return sums, peak, total


@triton.jit
def _load_queries(
    query: Rows,
    rotated: tl.tensor | None,
    asked: Asked,
    HEADS: tl.constexpr,
    LAYOUT: tl.constexpr,
    COMPUTE: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Queries ``[M, K]`` for the own tile, and the same for packed tiles.

    Returns:
        the queries in the model's channels, those for packed tiles, the channel ``[K]`` at each
        place of the latter, and whether there is one.
    """
    channel = tl.arange(0, channel_places(LAYOUT))
    held = channel < LAYOUT.head_dim
    at = pointers(query, asked)[:, None] + channel[None, :]
    mask = asked.exists[:, None] & held[None, :]
    queries = operand(tl.load(at, mask=mask, other=0.0))
    if LAYOUT.format.is_raw:
        packed_queries = queries.to(COMPUTE)
        key_channel = channel
        exists = held
    else:
        key_channel, exists = group_channel(LAYOUT)
        at = rotated_pointers(rotated, asked, HEADS, channel_places(LAYOUT))
        mask = asked.exists[:, None] & exists[None, :]
        packed_queries = tl.load(at[:, None] + channel[None, :], mask=mask, other=0.0)
    return queries, packed_queries, key_channel, exists


@triton.jit
def _store_out(out: Rows, asked: Asked, results: tl.tensor, D: tl.constexpr) -> None:
    """Store results ``[M, K]``, of which D channels exist."""
    channel = tl.arange(0, results.shape[1])
    mask = asked.exists[:, None] & (channel < D)[None, :]
    tl.store(pointers(out, asked)[:, None] + channel[None, :], results, mask=mask)


@triton.jit
def _add_history(
    queries: tl.tensor,
    key_channel: tl.tensor,
    exists: tl.tensor,
    history: History,
    count: tl.tensor,
    factor: tl.tensor,
    LAYOUT: tl.constexpr,
    COMPUTE: tl.constexpr,
    T: tl.constexpr,
    CAP: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Sums, peaks and totals over a sequence's first tiles, the sums in the format's rotation.

    `queries` ``[M, K]`` have channels in the order of `key_channel`, of which those that `exists`.
    """
    channel = tl.arange(0, queries.shape[1])
    held = channel < LAYOUT.head_dim
    peak = tl.full([queries.shape[0]], LOWEST, tl.float32)
    total = tl.zeros([queries.shape[0]], tl.float32)
    sums = tl.zeros(queries.shape, tl.float32)
    for index in range(count):
        tile = tile_in(history, page_at(history, index))
        for begin in range(0, TILE, T):
            token = begin + tl.arange(0, T)
            keys = load_rows(tile, token, key_channel, exists, "key", LAYOUT, COMPUTE)
            values = load_rows(tile, token, channel, held, "value", LAYOUT, COMPUTE)
            sums, peak, total = _add(
                sums, peak, total, queries, tl.trans(keys), values, None, factor, CAP
            )
    return sums, peak, total


@triton.jit
def _add_own(
    sums: tl.tensor,
    peak: tl.tensor,
    total: tl.tensor,
    queries: tl.tensor,
    sight: tl.tensor,
    own: Own,
    factor: tl.tensor,
    D: tl.constexpr,
    T: tl.constexpr,
    CAP: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Take in the own tile, of which each query sees the rows up to its `sight`."""
    K: tl.constexpr = queries.shape[1]
    for begin in range(0, own.end, T):
        row = begin + tl.arange(0, T)
        keys = own_keys(own, row, D, K)
        values = own_values(own, row, D, K)
        visible = row[None, :] <= sight[:, None]
        sums, peak, total = _add(
            sums, peak, total, queries, tl.trans(keys), values, visible, factor, CAP
        )
    return sums, peak, total


@triton.jit(do_not_specialize=["table_stride", "tail_stride", "few"])
def _attend_many(
    query: Rows,
    rotated: tl.tensor,
    keys: Rows,
    values: Rows,
    tail: Pages,
    packed: Pages,
    sequences: Sequences,
    table_stride: tl.tensor,
    tail_stride: tl.tensor,
    out: Rows,
    scale: tl.tensor,
    few: tl.tensor,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    M: tl.constexpr,
    T: tl.constexpr,
    LAYOUT: tl.constexpr,
    COMPUTE: tl.constexpr,
    CAP: tl.constexpr,
) -> None:
    """Row block b of a segment and head; the grid is ``(blocks, H, segments)``.

    Segments of at most `few` tokens are left to :mod:`kvarn.kernels.triton.attend`.
    """
    D: tl.constexpr = LAYOUT.head_dim
    segment = segment_at(sequences, tl.program_id(2))
    new = segment.end - segment.first
    row = tl.program_id(0) * M + tl.arange(0, M)
    if (new <= few) | (tl.program_id(0) * M >= new * GROUP):
        return

    head = tl.program_id(1).to(tl.int64)
    asked = rows_asked(segment, head, row, 0, new, GROUP)
    queries, packed_queries, key_channel, exists = _load_queries(
        query, rotated, asked, HEADS * GROUP, LAYOUT, COMPUTE
    )
    history = history_of(packed, sequences, table_stride, segment.sequence, head)
    factor = score_factor(scale, CAP)
    sums, peak, total = _add_history(
        packed_queries,
        key_channel,
        exists,
        history,
        segment.tile,
        factor,
        LAYOUT,
        COMPUTE,
        T,
        CAP,
    )
    if not LAYOUT.format.is_raw:
        sums = turned(sums, LAYOUT)
    own = own_of(tail, keys, values, sequences, tail_stride, segment, head)
    sums, peak, total = _add_own(sums, peak, total, queries, asked.sight, own, factor, D, T, CAP)
    _store_out(out, asked, sums / total[:, None], D)


def _block(layout: TileLayout, model: torch.dtype) -> dict[str, int]:
    """Query rows, tokens, warps and stages of a program."""
    places, roomy = channel_places(layout), is_roomy()
    tight = places > 256 and not roomy
    if compute_type(layout, model) == torch.float32:
        rows, tokens = (8, 16) if tight else (16, 32)
        return {"M": rows, "T": tokens, "num_warps": 4, "num_stages": 1}
    if places > 128:
        rows = (2**13 if tight else 2**14) // places
        return {"M": rows, "T": 32, "num_warps": 8, "num_stages": 1}
    return {"M": 128, "T": 64, "num_warps": 8, "num_stages": 2 if roomy else 1}


def attend_many(
    step: Step,
    cache: LayerCache,
    attention: Attention,
    rotated: torch.Tensor | None,
    *,
    few: int,
) -> None:
    """Attention of the segments that have more than `few` tokens.

    Args:
        step: the batch.
        cache: the layer's pages, complete tiles stored.
        attention: what is asked.
        rotated: the queries ``[tokens, Hq, C]``, rotated in group order; None for raw tiles.
        few: tokens.
    """
    layout, model = cache.layout, attention.query.dtype
    heads, group = attention.keys.shape[1], attention.group
    block = _block(layout, model)
    most = min(step.batch.most_new, TILE_TOKENS)
    _attend_many[(triton.cdiv(most * group, block["M"]), heads, step.segments)](
        Rows.of(attention.query),
        rotated,
        Rows.of(attention.keys),
        Rows.of(attention.values),
        Pages.of(cache.tail),
        Pages.of(cache.packed),
        Sequences.of(step, cache),
        step.batch.table.stride(0),
        cache.tail_page.stride(0),
        Rows.of(attention.out),
        attention.scale,
        few,
        HEADS=heads,
        GROUP=group,
        LAYOUT=layout,
        COMPUTE=as_triton(compute_type(layout, model)),
        CAP=attention.soft_cap,
        **block,
    )
