"""The running softmax of attention, in powers of two."""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-1e30)
"""Where a running peak begins: below every score, and finite, so that differences are numbers."""

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def score_factor(scale: tl.tensor, CAP: tl.constexpr) -> tl.tensor:
    """What products are multiplied with before :func:`as_exponents`."""
    return scale * LOG2_E if CAP == 0 else scale


@triton.jit
def as_exponents(scores: tl.tensor, CAP: tl.constexpr) -> tl.tensor:
    """Scores as powers of two; soft-capped, cap · tanh(score / cap), where CAP is not 0."""
    if CAP != 0:
        fall = tl.exp2(tl.abs(scores) * (-2 * LOG2_E / CAP))
        capped = (1 - fall) / (1 + fall) * (CAP * LOG2_E)
        scores = tl.where(scores < 0, -capped, capped)
    return scores


@triton.jit
def weigh(
    scores: tl.tensor, peak: tl.tensor, total: tl.tensor, AXIS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Take in scores, N queries' of some tokens.

    Args:
        scores: in powers of two.
        peak: ``[N]`` largest score so far.
        total: ``[N]`` sum of the weights so far, relative to the peak.
        AXIS: that of the tokens.

    Returns:
        the weights, what fades the sums so far, and the new peak and total.
    """
    higher = tl.maximum(peak, tl.max(scores, AXIS))
    fade = tl.exp2(peak - higher)
    weights = tl.exp2(scores - tl.expand_dims(higher, AXIS))
    return weights, fade, higher, total * fade + tl.sum(weights, AXIS)
