"""The store's kernels compile for every GPU that they run on, and stay in its registers."""

import pytest
import torch

from kvarn.format.layout import FORMATS, TileLayout
from kvarn.kernels.triton.step import prepare
from kvarn.kernels.triton.store import store_tiles
from kvarn.kernels.triton.tail import write_tails
from tests.kernels.compiled import Binary, binaries
from tests.kernels.steps import World

CAPABILITIES = (80, 90, 100)


def launch(name: str, head_dim: int, dtype: torch.dtype, tokens: int = 150) -> None:
    """A step of one prompt."""
    layout = TileLayout(FORMATS[name], head_dim)
    world = World(layout, [tokens], dtype=dtype, device=torch.device("cpu"))
    step, cache = prepare(world.batch({0: (0, tokens)})), world.cache([0])
    keys, values = world.keys[0], world.values[0]
    faults = torch.zeros(1, dtype=torch.int64)
    store_tiles(step, cache, keys=keys, values=values, faults=faults)
    write_tails(step, cache, keys=keys, values=values)


def compiled(capability: int, name: str, head_dim: int, **options: object) -> list[Binary]:
    return binaries(capability, launch, name, head_dim, **options)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", ["kvarn_k4v2_g128", "kvarn_k3v3_g128"])
def test_a_tile_of_128_channels_stays_in_registers(capability: int, name: str) -> None:
    """Only a few addresses go to the stack while it is quantised."""
    store, tail = compiled(capability, name, 128, dtype=torch.bfloat16)
    assert store.stack_bytes <= 64
    assert store.instructions <= 14_000
    assert (tail.stack_bytes, tail.registers <= 64) == (0, True)


@pytest.mark.parametrize("head_dim", [80, 192])
def test_other_head_dimensions_spill_little(head_dim: int) -> None:
    """80 channels take the room of 128; 192 are two slabs."""
    store, _ = compiled(90, "kvarn_k4v2_g128", head_dim, dtype=torch.float16)
    assert store.stack_bytes <= 512


def test_single_tokens_and_raw_tiles_compile() -> None:
    for name in ("kvarn_k4v4_g128", "kvarn_raw_g128"):
        store, tail = compiled(90, name, 64, dtype=torch.float32, tokens=1)
        assert tail.stack_bytes == 0
        assert store.name == "_store"
