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
from kvarn.kernels.triton.attend import segment_at
from kvarn.kernels.triton.butterfly import group_channel, turned
from kvarn.kernels.triton.dense import load_rows
from kvarn.kernels.triton.own import channel_places, load_own, operand, row_0_of, tail_of
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
    visible: tl.tensor,
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
        visible: which query sees which key, ``[M, T]`` or a part of it.
        factor: of the products.
        CAP: of the scores.
    """
    products = tl.dot(queries, keys, input_precision="ieee") * factor
    scores = tl.where(visible, as_exponents(products, CAP), -float("inf"))
    weights, fade, peak, total = weigh(scores, peak, total, 1)
    weights = weights.to(values.dtype)
    sums = tl.dot(weights, values, sums * fade[:, None], input_precision="ieee")
    return sums, peak, total


@triton.jit
def _add_history(
    queries: tl.tensor,
    key_channel: tl.tensor,
    exists: tl.tensor,
    tiles: tl.tensor,
    page_stride: tl.tensor,
    pages: tl.tensor,
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
    peak = tl.full([queries.shape[0]], LOWEST, tl.float32)
    total = tl.zeros([queries.shape[0]], tl.float32)
    sums = tl.zeros(queries.shape, tl.float32)
    for index in range(count):
        tile = tiles + tl.load(pages + index).to(tl.int64) * page_stride
        for begin in range(0, TILE, T):
            token = begin + tl.arange(0, T)
            held = channel < LAYOUT.head_dim
            keys = load_rows(tile, token, key_channel, exists, "key", LAYOUT, COMPUTE)
            values = load_rows(tile, token, channel, held, "value", LAYOUT, COMPUTE)
            sums, peak, total = _add(
                sums,
                peak,
                total,
                queries,
                tl.trans(keys),
                values,
                (token >= 0)[None, :],
                factor,
                CAP,
            )
    return sums, peak, total


@triton.jit
def _add_own(
    sums: tl.tensor,
    peak: tl.tensor,
    total: tl.tensor,
    queries: tl.tensor,
    sight: tl.tensor,
    tail_at: tl.tensor,
    keys_at: tl.tensor,
    key_stride: tl.tensor,
    values_at: tl.tensor,
    value_stride: tl.tensor,
    first: tl.tensor,
    end: tl.tensor,
    factor: tl.tensor,
    D: tl.constexpr,
    T: tl.constexpr,
    CAP: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Take in the own tile, of which each query sees the rows up to its `sight`."""
    K: tl.constexpr = queries.shape[1]
    for begin in range(0, end, T):
        row = begin + tl.arange(0, T)
        keys = load_own(tail_at, keys_at, key_stride, row, first, end, D, K)
        values = load_own(tail_at + D, values_at, value_stride, row, first, end, D, K)
        visible = row[None, :] <= sight[:, None]
        sums, peak, total = _add(
            sums, peak, total, queries, tl.trans(keys), values, visible, factor, CAP
        )
    return sums, peak, total


@triton.jit(do_not_specialize=["few"])
def _attend_many(
    query: Rows,
    rotated: tl.tensor,
    keys: Rows,
    values: Rows,
    tail: Pages,
    packed: Pages,
    sequences: Sequences,
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
    K: tl.constexpr = channel_places(LAYOUT)
    sequence, tile, first, end, origin = segment_at(sequences, tl.program_id(2))
    row = tl.program_id(0) * M + tl.arange(0, M)
    if (end - first <= few) | (tl.program_id(0) * M >= (end - first) * GROUP):
        return

    head = tl.program_id(1).to(tl.int64)
    query_head = head * GROUP + row % GROUP
    asked = row // GROUP < end - first
    channel = tl.arange(0, K)
    mask = asked[:, None] & (channel < D)[None, :]
    place = (origin + first + row // GROUP).to(tl.int64)
    queries_at = query.pointer + place * query.token_stride + query_head * query.head_stride
    queries = operand(tl.load(queries_at[:, None] + channel[None, :], mask=mask, other=0.0))
    factor = score_factor(scale, CAP)
    if LAYOUT.format.is_raw:
        turned_queries = queries.to(COMPUTE)
        key_channel = channel
        exists = channel < D
    else:
        key_channel, exists = group_channel(LAYOUT)
        turned_at = rotated + (place * (HEADS * GROUP) + query_head) * K
        mask = asked[:, None] & exists[None, :]
        turned_queries = tl.load(turned_at[:, None] + channel[None, :], mask=mask, other=0.0)
    sums, peak, total = _add_history(
        turned_queries,
        key_channel,
        exists,
        packed.pointer + head * packed.head_stride,
        packed.page_stride,
        sequences.table + sequence.to(tl.int64) * sequences.table_stride,
        tile,
        factor,
        LAYOUT,
        COMPUTE,
        T,
        CAP,
    )
    if not LAYOUT.format.is_raw:
        sums = turned(sums, LAYOUT)
    sums, peak, total = _add_own(
        sums,
        peak,
        total,
        queries,
        first + row // GROUP,
        tail_of(tail, sequences, sequence, head),
        row_0_of(keys, origin, head),
        keys.token_stride,
        row_0_of(values, origin, head),
        values.token_stride,
        first,
        end,
        factor,
        D,
        T,
        CAP,
    )
    out_at = out.pointer + place * out.token_stride + query_head * out.head_stride
    mask = asked[:, None] & (channel < D)[None, :]
    tl.store(out_at[:, None] + channel[None, :], sums / total[:, None], mask=mask)


def _block(layout: TileLayout, model: torch.dtype) -> dict[str, int]:
    """Query rows, tokens, warps and stages of a program."""
    places = channel_places(layout)
    if compute_type(layout, model) == torch.float32:
        return {"M": 16, "T": 32, "num_warps": 4, "num_stages": 1}
    if places > 128:
        return {"M": 2**14 // places, "T": 32, "num_warps": 8, "num_stages": 1}
    return {"M": 128, "T": 64, "num_warps": 8, "num_stages": 2}


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
