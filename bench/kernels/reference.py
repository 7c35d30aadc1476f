"""Attention in float64, written like the formula."""

import torch


def attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    visible: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """Attention of a sequence's queries.

    Args:
        query: ``[n, Hq, D]``.
        keys: ``[L, H, D]``; H divides Hq.
        values: ``[L, H, D]``.
        visible: ``[n, L]`` which query sees which key.
        scale: factor of the scores.

    Returns:
        float64 ``[n, Hq, D]``.
    """
    heads = keys.shape[1]
    grouped = query.double().view(len(query), heads, -1, query.shape[-1])
    scores = torch.einsum("nhgd,lhd->nhgl", grouped, keys.double()) * scale
    weights = scores.masked_fill(~visible[:, None, None], -torch.inf).softmax(dim=-1)
    return torch.einsum("nhgl,lhd->nhgd", weights, values.double()).flatten(1, 2)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Norm of the difference in parts of the norm."""
    return float((got.double() - want).norm() / want.norm())
