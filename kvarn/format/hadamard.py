"""The rotation that spreads outlier channels before keys and values are quantised."""

from functools import cache
from math import sqrt

import torch

from kvarn.format.layout import TileLayout


def hadamard(order: int) -> torch.Tensor:
    """Sylvester's matrix, scaled to be orthonormal: ``H = Hᵀ = H⁻¹``.

    Args:
        order: rows and columns, a power of two.

    Returns:
        float32 ``[order, order]``.
    """
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < order:
        matrix = torch.cat(
            [torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)]
        )
    return matrix / sqrt(order)


@cache
def rotation(layout: TileLayout, device: torch.device) -> torch.Tensor:
    """What the channels of a head are multiplied with: its own inverse.

    Block-diagonal, with Hadamard matrices of order ``layout.rotation_block``; the identity for raw
    tiles.

    Returns:
        float32 ``[D, D]`` on the device, shared by all callers.
    """
    if layout.format.is_raw:
        return torch.eye(layout.head_dim, device=device)
    block = hadamard(layout.rotation_block)
    blocks = layout.head_dim // layout.rotation_block
    return torch.kron(torch.eye(blocks), block).to(device)
