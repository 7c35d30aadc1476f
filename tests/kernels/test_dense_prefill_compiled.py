"""What stands between the cache and the library compiles for every GPU, and stays in registers."""

import pytest
import torch

from kvarn.format.layout import FORMATS, TileLayout
from kvarn.kernels.triton.arguments import Attention
from kvarn.kernels.triton.dequantise import write_pages
from kvarn.kernels.triton.join import join
from kvarn.kernels.triton.pieces import Piece
from kvarn.kernels.triton.places import Places
from kvarn.kernels.triton.step import prepare
from tests.kernels.compiled import Binary, binaries
from tests.kernels.steps import World


def launch(name: str, head_dim: int, dtype: torch.dtype = torch.bfloat16) -> None:
    """The last tokens of a sequence of three tiles, and a join."""
    layout = TileLayout(FORMATS[name], head_dim)
    world = World(layout, [300], dtype=dtype, device=torch.device("cpu"))
    step, cache = prepare(world.batch({0: (270, 300)})), world.cache([0])
    keys, values = (rows[0][270:] for rows in (world.keys, world.values))
    query = torch.zeros(30, 4 * world.heads, head_dim, dtype=dtype)
    attention = Attention(query, keys, values, out=query, scale=1.0, soft_cap=0.0)
    places = Places.of(step, Piece(0, 1, 0, None, tiles=2, own=1, width=3))
    pages = torch.empty(2, 3, 128, world.heads, head_dim, dtype=dtype)
    write_pages(step, cache, attention, places, pages)
    results = (query, torch.zeros(query.shape[1], 30))
    join(results, results, starts=step.batch.starts, sequence=0, most=30)


def compiled(capability: int, name: str, head_dim: int) -> list[Binary]:
    return binaries(capability, launch, name, head_dim)


@pytest.mark.parametrize("capability", [80, 90, 100])
@pytest.mark.parametrize(
    ("name", "head_dim"),
    [
        ("kvarn_k4v2_g128", 128),
        ("kvarn_k3v3_g128", 64),
        ("kvarn_k4v3_g128", 80),
        ("kvarn_k4v4_g128", 192),
        ("kvarn_k4v2_g128", 256),
    ],
)
def test_nothing_is_spilled_but_a_few_addresses(capability: int, name: str, head_dim: int) -> None:
    place, dequantise, copy, joined = compiled(capability, name, head_dim)
    assert [each.stack_bytes for each in (place, copy, joined)] == [0, 0, 0]
    assert dequantise.stack_bytes <= (32 if capability == 80 else 0)
    if head_dim <= 128 and capability >= 90:
        # Four programs of four warps run side by side on a multiprocessor.
        assert dequantise.registers <= 128
