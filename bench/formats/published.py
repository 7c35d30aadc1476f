"""KVarN as published: arXiv 2606.03458, Algorithm 1, with the constants of its implementation."""

import torch

from bench.formats.method import Method, rounded, tiled
from kvarn.format.hadamard import hadamard

ITERATIONS = 8
DEVIATIONS = (1e-3, 1e3)
LOGARITHMS = (-0.3, 10.0)


def published(key_bits: int, value_bits: int) -> Method:
    """Rotated, normalised along both axes for keys and values, and the first 128 tokens raw."""
    return Method(
        f"KVarN as published k{key_bits}v{value_bits}",
        lambda head_dim: (key_bits + value_bits) / 2 + 16 * 3 * (1 / 128 + 1 / head_dim) / 2,
        lambda keys, values: (
            _through(tiled(keys).mT, key_bits, rotate_rows=True).mT.flatten(-3, -2),
            _through(tiled(values), value_bits, rotate_rows=False).flatten(-3, -2),
        ),
        keeps_open_tile=True,
    )


def _through(tiles: torch.Tensor, bits: int, *, rotate_rows: bool) -> torch.Tensor:
    """Tiles ``[…, rows, columns]`` quantised by row; the channels are the rows for keys."""
    turn = hadamard(tiles.shape[-2] if rotate_rows else tiles.shape[-1]).to(tiles.device)
    turned = turn @ tiles if rotate_rows else tiles @ turn
    scale = field(turned)
    back = rounded(turned / scale, axis=-1, bits=bits) * scale
    return turn @ back if rotate_rows else back @ turn


def field(rows: torch.Tensor) -> torch.Tensor:
    """The scale of every number after the iterations: the flattest iterate's, not the last one's.

    Columns are visited first. The lower bound of the logarithms makes it depend on magnitude.
    """
    columns, lines = torch.zeros_like(rows[..., :1, :]), torch.zeros_like(rows[..., :1])
    best, scale = _imbalance(rows), torch.ones_like(rows)
    flat = rows
    for _ in range(ITERATIONS):
        deviation = flat.std(-2, keepdim=True).clamp(*DEVIATIONS)
        columns = (columns + deviation.log()).clamp(*LOGARITHMS)
        flat = rows / columns.exp() / lines.exp()
        deviation = flat.std(-1, keepdim=True).clamp(*DEVIATIONS)
        lines = (lines + deviation.log()).clamp(*LOGARITHMS)
        flat = rows / columns.exp() / lines.exp()
        now = _imbalance(flat)
        scale = torch.where(now <= best, columns.exp() * lines.exp(), scale)
        best = torch.minimum(best, now)
    return scale


def _imbalance(rows: torch.Tensor) -> torch.Tensor:
    """Largest over smallest deviation, of the columns plus of the rows; 2 where all is flat."""
    spreads = [rows.std(axis, keepdim=True) for axis in (-2, -1)]
    ratios = [
        spread.amax((-2, -1), keepdim=True) / spread.amin((-2, -1), keepdim=True).clamp(min=1e-8)
        for spread in spreads
    ]
    return ratios[0] + ratios[1]
