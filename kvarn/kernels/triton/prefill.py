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
from kvarn.kernels.triton.own import channel_places, load_own, operand
from kvarn.kernels.triton.scores import LOWEST, as_exponents, score_factor, weigh
from kvarn.kernels.triton.step import TILE, Step, load_segment


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
    sequence, tile, first, end, origin = load_segment(
        sequences.starts,
        sequences.lengths,
        sequences.segment_sequence,
        sequences.segment_tile,
        tl.program_id(2),
    )
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
    peak = tl.full([M], LOWEST, tl.float32)
    total = tl.zeros([M], tl.float32)
    sums = tl.zeros([M, K], tl.float32)

    if LAYOUT.format.is_raw:
        turned_queries = queries.to(COMPUTE)
        key_channel = channel
        exists = channel < D
    else:
        key_channel, exists = group_channel(LAYOUT)
        turned_at = rotated + (place * (HEADS * GROUP) + query_head) * K
        turned_queries = tl.load(
            turned_at[:, None] + channel[None, :], mask=asked[:, None] & exists[None, :], other=0.0
        )
    pages = sequences.table + sequence.to(tl.int64) * sequences.table_stride
    for index in range(tile):
        page = tl.load(pages + index).to(tl.int64)
        at = packed.pointer + page * packed.page_stride + head * packed.head_stride
        for begin in range(0, TILE, T):
            token = begin + tl.arange(0, T)
            key_rows = load_rows(at, token, key_channel, exists, "key", LAYOUT, COMPUTE)
            value_rows = load_rows(at, token, channel, channel < D, "value", LAYOUT, COMPUTE)
            sums, peak, total = _add(
                sums,
                peak,
                total,
                turned_queries,
                tl.trans(key_rows),
                value_rows,
                (token >= 0)[None, :],
                factor,
                CAP,
            )
    if not LAYOUT.format.is_raw:
        sums = turned(sums, LAYOUT)

    page = tl.load(sequences.tail_page + sequence * sequences.tail_stride).to(tl.int64)
    held = tail.pointer + page * tail.page_stride + head * tail.head_stride
    origin = origin.to(tl.int64)
    new_keys = keys.pointer + origin * keys.token_stride + head * keys.head_stride
    new_values = values.pointer + origin * values.token_stride + head * values.head_stride
    for begin in range(0, end, T):
        token = begin + tl.arange(0, T)
        key_rows = load_own(held, new_keys, keys.token_stride, token, first, end, D, K)
        value_rows = load_own(held + D, new_values, values.token_stride, token, first, end, D, K)
        sums, peak, total = _add(
            sums,
            peak,
            total,
            queries,
            tl.trans(key_rows),
            value_rows,
            token[None, :] <= first + row[:, None] // GROUP,
            factor,
            CAP,
        )
    out_at = out.pointer + place * out.token_stride + query_head * out.head_stride
    tl.store(out_at[:, None] + channel[None, :], sums / total[:, None], mask=mask)


def _block(layout: TileLayout, model: torch.dtype) -> dict[str, int]:
    """Query rows, tokens, warps and stages of a program."""
    places = channel_places(layout)
    if compute_type(layout, model) == torch.float32:
        return {"M": 16, "T": 32, "num_warps": 4, "num_stages": 1}
    if places > 128:
        return {"M": 2**14 // places, "T": 32, "num_warps": 8, "num_stages": 1}
    return {"M": 128, "T": 64, "num_warps": 8, "num_stages": 2}


def attend_many(step: Step, cache: LayerCache, attention: Attention, *, few: int) -> None:
    """Attention of the segments that have more than `few` tokens.

    Args:
        step: the batch.
        cache: the layer's pages, complete tiles stored.
        attention: what is asked.
        few: tokens.
    """
    layout, model = cache.layout, attention.query.dtype
    heads, group = attention.keys.shape[1], attention.group
    block = _block(layout, model)
    most = min(step.batch.most_new, TILE_TOKENS)
    _attend_many[(triton.cdiv(most * group, block["M"]), heads, step.segments)](
        Rows.of(attention.query),
        attention.rotated,
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
