"""Attention of single tokens in CUDA C++ gives what the others give, wherever its pieces end.

On a GPU the program runs there; elsewhere an emulator takes it apart, thread by thread.
"""

import pytest
import torch

from kvarn.format.layout import FORMATS, TileLayout
from kvarn.kernels import triton
from kvarn.kernels.cuda.decode import launch
from kvarn.kernels.cuda.program import Program, load
from kvarn.kernels.cuda.source import Variant
from kvarn.kernels.triton.arguments import Attention
from tests.kernels.emulated import emulated
from tests.kernels.model import Model
from tests.kernels.steps import DEVICE


def program(variant: Variant, warps: int) -> Program:
    return load(variant, DEVICE) if DEVICE.type == "cuda" else emulated(variant, warps)


def attended(model: Model, batch: dict[int, tuple[int, int]], *, warps: int) -> torch.Tensor:
    """What the program makes of a step that the model has not made yet."""

    def joined(rows: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([rows[member][slice(*chunk)] for member, chunk in batch.items()])

    query = joined(model.query)
    attention = Attention(
        query=query,
        keys=joined(model.keys),
        values=joined(model.values),
        out=torch.full_like(query, torch.nan),
        scale=model.scale,
        soft_cap=float(model.options.get("soft_cap", 0.0)),
    )
    cache = model.cache(list(batch))
    variant = Variant(
        model.layout, query.dtype, group=model.group, soft_cap=attention.soft_cap != 0
    )
    launch(program(variant, warps), triton.prepare(model.batch(batch)), cache, attention)
    return attention.out


def check(model: Model, batch: dict[int, tuple[int, int]], *, warps: int) -> None:
    """Compare a step of single tokens with the reference, and make it."""
    got = attended(model, batch, warps=warps)
    model.run(batch)
    want = torch.cat([model.out[member][slice(*chunk)] for member, chunk in batch.items()])
    torch.testing.assert_close(got.float(), want.float(), rtol=1e-2, atol=3e-2)
    assert (got.float() - want.float()).norm() < 5e-3 * want.float().norm()


@pytest.mark.parametrize(
    ("name", "head_dim", "group", "dtype"),
    [
        ("kvarn_k4v2_g128", 128, 4, torch.bfloat16),
        ("kvarn_k4v4_g128", 80, 3, torch.float16),
        ("kvarn_k3v3_g128", 64, 8, torch.bfloat16),
        ("kvarn_k4v3_g128", 96, 1, torch.float16),
        ("kvarn_k4v2_g128", 256, 5, torch.bfloat16),
        ("kvarn_k3v3_g128", 192, 2, torch.bfloat16),
        ("kvarn_k4v2_g128", 512, 2, torch.float16),
    ],
)
@pytest.mark.parametrize("warps", [3, 40])
def test_single_tokens(
    name: str, head_dim: int, group: int, dtype: torch.dtype, warps: int
) -> None:
    """Histories of none, one and several tiles; own tiles of one row, and full ones."""
    lengths = [390, 5, 256, 129]
    model = Model(TileLayout(FORMATS[name], head_dim), lengths, group=group, dtype=dtype)
    model.run({member: (0, length - 2) for member, length in enumerate(lengths)})
    for back in (2, 1):
        step = {member: (length - back, length - back + 1) for member, length in enumerate(lengths)}
        check(model, step, warps=warps)
