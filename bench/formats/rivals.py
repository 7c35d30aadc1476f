"""What users would pick instead, restated from vLLM 0.32's sources; `gate.py` compares them.

* ``int4_per_token_head``: signs and a Hadamard rotation, then per token and head an even grid of
  16 steps between the ends, with an integer zero in the low bits of a float32 scale.
* ``turboquant_*``: keys divided by their norm and rotated, each number moved to the nearest of
  Lloyd and Max's levels for a Gaussian, the vector then brought back to its norm (float16); values
  not rotated, an even grid between the ends of each token (float16 step and zero).
* ``fp8``: e4m3 with a scale of 1, vLLM's default.
"""

from functools import cache
from itertools import pairwise
from math import erf, exp, pi, sqrt

import torch

from bench.formats.method import Method, rounded, tiled
from kvarn.format.hadamard import hadamard

_SIGN_SEED = 0x9E3779B9


def int4_per_token_head() -> Method:
    """The `int4_per_token_head` of vLLM: 4 bits and a float32 per token, head, key and value."""
    return Method(
        "int4_per_token_head",
        lambda head_dim: 4 + 32 / head_dim,
        lambda keys, values: (_int4(keys), _int4(values)),
    )


def turboquant(name: str, *, key_bits: int, value_bits: int) -> Method:
    """One of vLLM's `turboquant_*_nc`; its skipping of four layers is left out."""
    metadata_bits = 16 + 32
    return Method(
        f"turboquant_{name}",
        lambda head_dim: (key_bits + value_bits + metadata_bits / head_dim) / 2,
        lambda keys, values: (
            turboquant_keys(keys, key_bits),
            rounded(values, axis=-1, bits=value_bits),
        ),
    )


def fp8() -> Method:
    """The `fp8` of vLLM with its default scale."""
    return Method("fp8", lambda _: 8.0, lambda keys, values: (_e4m3(keys), _e4m3(values)))


def _int4(rows: torch.Tensor) -> torch.Tensor:
    turn = hadamard(rows.shape[-1]).to(rows.device)
    generator = torch.Generator().manual_seed(_SIGN_SEED)
    halves = torch.full((rows.shape[-1],), 0.5)
    signs = 2 * torch.bernoulli(halves, generator=generator) - 1
    turned = (rows * signs.to(rows.device)) @ turn
    low, high = turned.amin(-1, keepdim=True), turned.amax(-1, keepdim=True)
    step = ((high - low) / 15).clamp(min=1e-6)
    zero = (-low / step).round().clamp(0, 15)
    codes = (turned / step + zero).round().clamp(0, 15)
    back: torch.Tensor = ((codes - zero) * step) @ turn * signs.to(rows.device)
    return back


def turboquant_keys(keys: torch.Tensor, bits: int) -> torch.Tensor:
    """Keys ``[…, D]`` after TurboQuant with norm correction."""
    turn = hadamard(keys.shape[-1]).to(keys.device)
    norm = keys.norm(dim=-1, keepdim=True)
    levels = gaussian_levels(bits).to(keys.device)
    turned = (keys / (norm + 1e-8)) @ turn * sqrt(keys.shape[-1])
    nearest = levels[torch.bucketize(turned, (levels[1:] + levels[:-1]) / 2)]
    unit = nearest / nearest.norm(dim=-1, keepdim=True)
    back: torch.Tensor = unit * norm.half().float() @ turn
    return back


@cache
def gaussian_levels(bits: int) -> torch.Tensor:
    """Lloyd and Max's levels of so many bits for a normal variable, float32 ``[2**bits]``."""
    count = 1 << bits
    levels = [-3.5 + 7 * (n + 0.5) / count for n in range(count)]
    for _ in range(2000):
        inner = [(a + b) / 2 for a, b in pairwise(levels)]
        edges = [-10.5, *inner, 10.5]
        levels = [(_density(a) - _density(b)) / (_below(b) - _below(a)) for a, b in pairwise(edges)]
    return torch.tensor(levels)


def _density(x: float) -> float:
    return exp(-x * x / 2) / sqrt(2 * pi)


def _below(x: float) -> float:
    return (1 + erf(x / sqrt(2))) / 2


def _e4m3(rows: torch.Tensor) -> torch.Tensor:
    return rows.clamp(-448, 448).to(torch.float8_e4m3fn).to(rows.dtype)


def plain(key_bits: int, value_bits: int) -> Method:
    """Round to nearest, keys by channel and values by token, nothing else."""
    return Method(
        f"plain k{key_bits}v{value_bits}",
        lambda head_dim: (key_bits + value_bits) / 2 + 16 * (1 / 128 + 1 / head_dim),
        lambda keys, values: (
            rounded(tiled(keys), axis=-2, bits=key_bits).flatten(-3, -2),
            rounded(values, axis=-1, bits=value_bits),
        ),
        keeps_open_tile=True,
    )
