"""Segments of few tokens: their histories in parts, then the parts joined."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton

from kvarn.kernels.batch import LayerCache
from kvarn.kernels.triton.arguments import Attention, Pages, Partial, Rows, Sequences
from kvarn.kernels.triton.attend import attend
from kvarn.kernels.triton.combine import combine
from kvarn.kernels.triton.memory import scratch
from kvarn.kernels.triton.parts import Cut, stages
from kvarn.kernels.triton.rotate import INTERPRETED, padded_channels
from kvarn.kernels.triton.step import Step


@dataclass(frozen=True)
class Window:
    """What one launch attends: some tokens of some segments."""

    first_segment: int
    segments: int
    first_token: int
    tokens: int


def attend_few(
    step: Step,
    cache: LayerCache,
    attention: Attention,
    rotated: torch.Tensor,
    *,
    few: int,
    cut: Cut,
) -> None:
    """Attention of the segments that have at most `few` tokens.

    Args:
        step: the batch.
        cache: the layer's pages, complete tiles stored.
        attention: what is asked.
        rotated: the queries ``[tokens, Hq, C]``, rotated in group order.
        few: tokens.
        cut: what a program takes.
    """
    query_heads = attention.query.shape[1]
    memory = scratch(attention.query.device).partial()
    channels = padded_channels(cache.layout)
    rows = len(memory) // ((1 + cut.parts) * (channels + 1))
    sums = rows * (1 + cut.parts) * channels
    partial = Partial(memory[:sums], memory[sums:])
    for window in _windows(step.segments, few, token_rows=query_heads, rows=rows):
        _launch(step, cache, attention, rotated, partial, window, few=few, cut=cut)


def _launch(
    step: Step,
    cache: LayerCache,
    attention: Attention,
    rotated: torch.Tensor,
    partial: Partial,
    window: Window,
    *,
    few: int,
    cut: Cut,
) -> None:
    layout = cache.layout
    heads, query_heads = attention.keys.shape[1], attention.query.shape[1]
    sequences = Sequences.of(step, cache)
    place = (
        cut.parts,
        cut.least_tiles,
        window.first_segment,
        window.first_token,
        window.tokens,
        few,
    )
    blocks = triton.cdiv(window.tokens * attention.group, cut.columns)
    attend[(1 + cut.parts, blocks * heads, window.segments)](
        Rows.of(attention.query),
        rotated,
        Rows.of(attention.keys),
        Rows.of(attention.values),
        Pages.of(cache.tail),
        Pages.of(cache.packed),
        sequences,
        step.batch.table.stride(0),
        cache.tail_page.stride(0),
        partial,
        attention.scale,
        *place,
        HEADS=heads,
        GROUP=attention.group,
        N=cut.columns,
        LAYOUT=layout,
        CAP=attention.soft_cap,
        ASM=not INTERPRETED.value,
        STAGES=cut.stages,
        num_warps=cut.warps,
        num_stages=stages(layout),
    )
    combine[(query_heads, window.tokens, window.segments)](
        Rows.of(attention.out),
        sequences,
        partial,
        *place,
        HEADS=query_heads,
        LAYOUT=layout,
        num_warps=1,
    )


def _windows(segments: int, tokens: int, *, token_rows: int, rows: int) -> Iterator[Window]:
    """Launches whose partial results fit into so many rows."""
    tokens_at_once = min(tokens, max(1, rows // token_rows))
    segments_at_once = max(1, rows // (token_rows * tokens_at_once))
    for first_segment in range(0, segments, segments_at_once):
        for first_token in range(0, tokens, tokens_at_once):
            yield Window(
                first_segment=first_segment,
                segments=min(segments_at_once, segments - first_segment),
                first_token=first_token,
                tokens=min(tokens_at_once, tokens - first_token),
            )
