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


def launch(
    name: str, head_dim: int, dtype: torch.dtype, tokens: int = 150, padding: int = 0
) -> None:
    """A step of one prompt, or of one token in a padded batch."""
    layout = TileLayout(FORMATS[name], head_dim)
    world = World(layout, [tokens], dtype=dtype, device=torch.device("cpu"))
    step, cache = prepare(world.batch({0: (0, tokens)}, padding=padding)), world.cache([0])
    keys, values = world.keys[0], world.values[0]
    faults = torch.zeros(1, dtype=torch.int64)
    store_tiles(step, cache, keys=keys, values=values, faults=faults)
    write_tails(step, cache, keys=keys, values=values)


def compiled(capability: int, name: str, head_dim: int, **options: object) -> list[Binary]:
    return binaries(capability, launch, name, head_dim, **options)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", ["kvarn_k4v2_g128", "kvarn_k3v3_g128"])
def test_a_tile_of_128_channels_stays_in_registers(capability: int, name: str) -> None:
    """Of 255 registers a few addresses go to the stack, and nothing of the tile."""
    store, tail = compiled(capability, name, 128, dtype=torch.bfloat16)
    assert store.stack_bytes <= 128
    assert store.instructions <= 14_000
    assert (tail.stack_bytes, tail.registers <= 64) == (0, True)


@pytest.mark.parametrize("head_dim", [80, 192])
def test_other_head_dimensions_spill_little(head_dim: int) -> None:
    """80 channels take the room of 128; 192 are two slabs."""
    store, _ = compiled(90, "kvarn_k4v2_g128", head_dim, dtype=torch.float16)
    assert store.stack_bytes <= 512


@pytest.mark.parametrize("padding", [0, 300])
def test_steps_of_single_tokens_compile(padding: int) -> None:
    store, tail = compiled(
        90, "kvarn_k4v4_g128", 128, dtype=torch.float16, tokens=1, padding=padding
    )
    assert store.stack_bytes <= 512
    assert tail.registers <= 64


def test_raw_tiles_and_float32_models_compile() -> None:
    for name in ("kvarn_raw_g128", "kvarn_k4v2_g128"):
        store, tail = compiled(90, name, 64, dtype=torch.float32)
        assert (store.name, tail.stack_bytes) == ("_store", 0)
