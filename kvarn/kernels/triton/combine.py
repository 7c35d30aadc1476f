"""The parts of :mod:`kvarn.kernels.triton.attend` joined to the results of the queries."""

import triton
import triton.language as tl

from kvarn.kernels.triton.arguments import Partial, Rows, Sequences
from kvarn.kernels.triton.attend import parts_of
from kvarn.kernels.triton.butterfly import group_place, turned
from kvarn.kernels.triton.own import channel_places
from kvarn.kernels.triton.queries import segment_at
from kvarn.kernels.triton.rotate import padded_channels

PARTS = tl.constexpr(16)
"""Parts that are loaded at once."""


@triton.jit(
    do_not_specialize=["parts", "least_tiles", "first_segment", "first_token", "tokens", "few"]
)
def combine(
    out: Rows,
    sequences: Sequences,
    partial: Partial,
    parts: tl.tensor,
    least_tiles: tl.tensor,
    first_segment: tl.tensor,
    first_token: tl.tensor,
    tokens: tl.tensor,
    few: tl.tensor,
    HEADS: tl.constexpr,
    LAYOUT: tl.constexpr,
) -> None:
    """One token and query head; the grid is ``(Hq, tokens, segments)``."""
    C: tl.constexpr = padded_channels(LAYOUT)
    head = tl.program_id(0)
    token = tl.program_id(1)
    local = tl.program_id(2)
    _, tile, first, end, origin = segment_at(sequences, first_segment + local)
    if (first_token + token >= end - first) | (end - first > few):
        return

    slot = ((local * tokens + token).to(tl.int64) * HEADS + head) * (1 + parts)
    channel = tl.arange(0, channel_places(LAYOUT))
    held = channel < LAYOUT.head_dim
    place = group_place(channel, LAYOUT)
    own = tl.load(partial.sums + slot * C + channel, mask=held, other=0.0)
    own_exponent = tl.load(partial.exponents + slot)
    # The peak is not a part's own but a running one: it only keeps the powers in range.
    peak = own_exponent
    total = tl.zeros_like(own_exponent)
    history = tl.zeros([channel_places(LAYOUT)], tl.float32)
    used = parts_of(tile, parts, least_tiles)
    for begin in range(1, 1 + used, PARTS):
        part = begin + tl.arange(0, PARTS)
        there = part <= used
        exponent = tl.load(partial.exponents + slot + part, mask=there, other=-float("inf"))
        higher = tl.maximum(peak, tl.max(exponent, 0))
        fade = tl.exp2(peak - higher)
        weight = tl.exp2(exponent - higher)
        at = (slot + part)[:, None] * C + place[None, :]
        sums = tl.load(partial.sums + at, mask=there[:, None] & held[None, :], other=0.0)
        history = history * fade + tl.sum(sums * weight[:, None], 0)
        total = total * fade + tl.sum(weight, 0)
        peak = higher
    history = tl.reshape(turned(history[None, :], LAYOUT), history.shape)
    own_weight = tl.exp2(own_exponent - peak)
    result = (history + own * own_weight) / (total + own_weight)
    row = (origin + first + first_token + token).to(tl.int64)
    at = out.pointer + row * out.token_stride + head * out.head_stride + channel
    tl.store(at, result, mask=held)
