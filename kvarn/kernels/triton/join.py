"""Results over two sets of keys joined to those over both."""

import torch
import triton
import triton.language as tl

from kvarn.kernels.triton.arguments import Rows
from kvarn.kernels.triton.own import operand
from kvarn.kernels.triton.scores import LOWEST

ROWS = tl.constexpr(16)
"""Tokens of a program."""


Results = tuple[torch.Tensor, torch.Tensor]
"""``[tokens, Hq, D]``, and float32 ``[Hq, tokens]``: logarithms of the sums of their weights."""


def join(
    results: Results, more: Results, *, starts: torch.Tensor, sequence: int, most: int
) -> None:
    """Join results of a sequence with more of them, in place.

    Args:
        results: over some keys.
        more: over others; logarithms that are not finite say that there are none.
        starts: of the batch.
        sequence: which.
        most: its tokens, or more.
    """
    (out, exponents), (more_out, more_exponents) = results, more
    _, heads, head_dim = out.shape
    _join[(triton.cdiv(most, ROWS.value), heads)](
        Rows.of(out),
        exponents,
        exponents.stride(0),
        Rows.of(more_out),
        more_exponents,
        more_exponents.stride(0),
        starts,
        sequence,
        D=head_dim,
        K=triton.next_power_of_2(head_dim),
    )


@triton.jit(do_not_specialize=["exponents_head", "more_exponents_head", "sequence"])
def _join(
    out: Rows,
    exponents: tl.tensor,
    exponents_head: tl.tensor,
    more: Rows,
    more_exponents: tl.tensor,
    more_exponents_head: tl.tensor,
    starts: tl.tensor,
    sequence: tl.tensor,
    D: tl.constexpr,
    K: tl.constexpr,
) -> None:
    """Some tokens of a query head; the grid is ``(·, Hq)``."""
    starts += sequence
    row = tl.load(starts).to(tl.int64) + tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < tl.load(starts + 1)
    head = tl.program_id(1).to(tl.int64)
    at = exponents + head * exponents_head + row
    exponent = tl.load(at, mask=there, other=0.0)
    other = more_exponents + head * more_exponents_head + row
    other = tl.load(other, mask=there, other=0.0)
    # FlashAttention 2 writes infinity where there are no keys, FlashAttention 3 minus infinity.
    other = tl.where(tl.abs(other) < float("inf"), other, LOWEST)
    peak = tl.maximum(exponent, other)
    weight, other_weight = tl.exp(exponent - peak), tl.exp(other - peak)
    total = weight + other_weight
    tl.store(at, peak + tl.log(total), mask=there)

    channel = tl.arange(0, K)
    mask = there[:, None] & (channel < D)[None, :]
    place = _row_pointers(out, row, head)[:, None] + channel[None, :]
    rows = operand(tl.load(place, mask=mask, other=0.0)).to(tl.float32)
    more_place = _row_pointers(more, row, head)[:, None] + channel[None, :]
    more_rows = operand(tl.load(more_place, mask=mask, other=0.0)).to(tl.float32)
    joined = rows * (weight / total)[:, None] + more_rows * (other_weight / total)[:, None]
    tl.store(place, joined, mask=mask)


@triton.jit
def _row_pointers(rows: Rows, row: tl.tensor, head: tl.tensor) -> tl.tensor:
    """Pointers to a head's rows."""
    return rows.pointer + row * rows.token_stride + head * rows.head_stride
