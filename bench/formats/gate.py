"""Are the rivals restated rightly? Compares them with vLLM's own kernels: needs vLLM and a GPU.

    python -m bench.formats.gate

Each kernel stores random rows in its own bytes; what those bytes stand for must be as far from the
rows as the restated rival is. Bit for bit they differ, because vLLM rotates in bf16.
"""

from collections.abc import Callable, Mapping

import click
import numpy as np
import torch
from vllm.v1.attention.ops.int4_per_token_head import reshape_and_cache_int4, single_rht
from vllm.v1.attention.ops.triton_turboquant_store import triton_turboquant_store

from bench.formats import rivals
from bench.formats.method import Method
from kvarn.format.hadamard import hadamard

TOKENS, HEADS, HEAD_DIM = 256, 2, 128
TOLERANCE = 0.01
"""Of the error relative to the rows, as a part of it."""

Stored = tuple[torch.Tensor, torch.Tensor]


def int4(keys: torch.Tensor, values: torch.Tensor) -> Stored:
    """Rows ``[T, H, D]`` after vLLM's own int4 kernel."""
    codes = [keys.new_zeros(1, TOKENS, HEADS, HEAD_DIM // 2, dtype=torch.uint8) for _ in range(2)]
    scales = [keys.new_zeros(1, TOKENS, HEADS) for _ in range(2)]
    slots = torch.arange(TOKENS, device=keys.device)
    reshape_and_cache_int4(
        keys, values, *codes, slots, k_scale_cache=scales[0], v_scale_cache=scales[1]
    )
    back_keys, back_values = (_from_int4(*pair) for pair in zip(codes, scales, strict=True))
    return back_keys, back_values


def _from_int4(packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    word = scales[0].view(torch.int32)
    zero, scale = (word & 15).float(), (word & -16).view(torch.float32)
    codes = torch.stack([packed[0] & 15, packed[0] >> 4], dim=-1).flatten(-2).float()
    turned = (codes - zero[..., None]) * scale[..., None]
    back: torch.Tensor = single_rht(turned, inverse=True) / HEAD_DIM
    return back


def turboquant(key_bits: int, value_bits: int) -> Callable[[torch.Tensor, torch.Tensor], Stored]:
    """Rows after vLLM's own TurboQuant kernel."""
    key_bytes, value_bytes = (HEAD_DIM * bits // 8 for bits in (key_bits, value_bits))

    def stored(keys: torch.Tensor, values: torch.Tensor) -> Stored:
        slot_bytes = key_bytes + 2 + value_bytes + 4
        cache = torch.zeros(1, TOKENS, HEADS, slot_bytes, dtype=torch.uint8, device=keys.device)
        levels = (rivals.gaussian_levels(key_bits) / HEAD_DIM**0.5).to(keys.device)
        turn = hadamard(HEAD_DIM).to(keys.device)
        slots = torch.arange(TOKENS, dtype=torch.int32, device=keys.device)
        middles = (levels[1:] + levels[:-1]) / 2
        triton_turboquant_store(
            keys, values, cache, slots, turn, middles, key_bits, key_bytes + 2, value_bits
        )
        unit = levels[_codes(cache[0, ..., :key_bytes], key_bits)]
        norm = cache[0, ..., key_bytes : key_bytes + 2].contiguous().view(torch.float16).float()
        tail = cache[0, ..., key_bytes + 2 + value_bytes :].contiguous().view(torch.float16)
        step, zero = tail.float().split(1, dim=-1)
        codes = _codes(cache[0, ..., key_bytes + 2 : key_bytes + 2 + value_bytes], value_bits)
        return unit / unit.norm(dim=-1, keepdim=True) * norm @ turn, codes * step + zero

    return stored


def _codes(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes from a stream of bits, the low ones first."""
    stream = np.unpackbits(packed.cpu().numpy(), axis=-1, bitorder="little")
    fields = stream.reshape(*packed.shape[:-1], -1, bits)
    return torch.from_numpy(fields @ (1 << np.arange(bits))).to(packed.device)


CONTENDERS: Mapping[str, tuple[Method, Callable[[torch.Tensor, torch.Tensor], Stored]]] = {
    "int4_per_token_head": (rivals.int4_per_token_head(), int4),
    **{
        name: (
            rivals.turboquant(name, key_bits=key_bits, value_bits=value_bits),
            turboquant(key_bits, value_bits),
        )
        for name, key_bits, value_bits in (("3bit_nc", 3, 3), ("k3v4_nc", 3, 4), ("4bit_nc", 4, 4))
    },
}


@click.command()
def main() -> None:
    """Compare every restated rival with vLLM's kernel; the status is 1 if one differs."""
    torch.manual_seed(0)
    keys, values = (torch.randn(TOKENS, HEADS, HEAD_DIM, device="cuda") for _ in range(2))
    differing = 0
    for name, (restated, kernel) in CONTENDERS.items():
        stored, expected = kernel(keys, values), restated.through(keys, values)
        pairs = zip(stored, expected, (keys, values), strict=True)
        for what, (own, ours, rows) in zip(("keys", "values"), pairs, strict=True):
            errors = [float((back - rows).norm() / rows.norm()) for back in (own, ours)]
            same = abs(errors[0] / errors[1] - 1) < TOLERANCE
            differing += not same
            verdict = "agree" if same else "DIFFER"
            click.echo(f"{name} {what}: vLLM {errors[0]:.5f}, restated {errors[1]:.5f}: {verdict}")
    raise SystemExit(differing > 0)


if __name__ == "__main__":
    main()
