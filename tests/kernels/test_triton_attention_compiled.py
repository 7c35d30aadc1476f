"""Attention's kernels compile for every GPU that they run on; the fast ones stay in registers."""

import pytest
import torch

from kvarn.format.layout import FORMATS, HEAD_DIMS, TileLayout
from kvarn.kernels.triton.arguments import Attention
from kvarn.kernels.triton.attention import attend
from kvarn.kernels.triton.parts import even_cut
from kvarn.kernels.triton.step import prepare
from tests.kernels.compiled import Binary, binaries
from tests.kernels.steps import World

CAPABILITIES = (80, 90, 100)


def launch(name: str, head_dim: int, dtype: torch.dtype = torch.bfloat16, tokens: int = 1) -> None:
    """The last tokens of a sequence of three tiles."""
    layout = TileLayout(FORMATS[name], head_dim)
    world = World(layout, [300], dtype=dtype, device=torch.device("cpu"))
    step, cache = prepare(world.batch({0: (300 - tokens, 300)})), world.cache([0])
    keys, values = (rows[0][-tokens:] for rows in (world.keys, world.values))
    query = torch.zeros(tokens, 4 * world.heads, head_dim, dtype=dtype)
    attention = Attention(
        query=query,
        keys=keys,
        values=values,
        out=torch.empty_like(query),
        scale=1.0,
        soft_cap=0.0,
    )
    cut = even_cut(layout, rows=4, histories=2, tiles=2, processors=132)
    attend(step, cache, attention, cut=cut)


def kernel(capability: int, name: str, head_dim: int, **options: object) -> Binary:
    """The one that reads the tiles."""
    found = binaries(capability, launch, name, head_dim, **options)
    function = "attend" if options.get("tokens", 1) == 1 else "_attend_many"
    return next(binary for binary in found if binary.name == function)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_decoding_stays_in_registers(capability: int) -> None:
    """Apart from a few numbers that wait for the end of the loop."""
    assert kernel(capability, "kvarn_k4v2_g128", 128).stack_bytes <= 32


@pytest.mark.parametrize(("head_dim", "stack_bytes"), [(64, 16), (256, 96)])
def test_decoding_nearly_does_with_other_head_dimensions(head_dim: int, stack_bytes: int) -> None:
    assert kernel(90, "kvarn_k4v4_g128", head_dim).stack_bytes <= stack_bytes


def test_a_packed_tile_takes_few_instructions() -> None:
    """Most of the binary is the loop over packed tiles."""
    assert kernel(90, "kvarn_k4v2_g128", 128).instructions < 5200


@pytest.mark.parametrize("capability", [90, 100])
@pytest.mark.parametrize("head_dim", [128, 256])
def test_prefill_stays_in_registers(capability: int, head_dim: int) -> None:
    assert kernel(capability, "kvarn_k4v2_g128", head_dim, tokens=100).stack_bytes == 0


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_head_dimension_fits_into_the_smallest_shared_memory(head_dim: int) -> None:
    for tokens in (1, 100):
        assert kernel(80, "kvarn_k4v3_g128", head_dim, tokens=tokens).registers <= 255


@pytest.mark.parametrize("name", ["kvarn_raw_g128", "kvarn_k4v2_g128"])
def test_float32_compiles(name: str) -> None:
    assert kernel(90, name, 128, dtype=torch.float32, tokens=2).registers <= 255
