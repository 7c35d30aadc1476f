"""The CUDA programs compile for every GPU that they run on, and stay in registers."""

import pytest
import torch

from kvarn.format.layout import FORMATS, HEAD_DIMS, TileLayout
from kvarn.kernels.cuda.program import compiled, is_known
from kvarn.kernels.cuda.source import Variant, is_supported
from tests.kernels.compiled import SHARED_BYTES, Binary, look_into


def variant(name: str, head_dim: int, *, group: int = 4) -> Variant:
    layout = TileLayout(FORMATS[name], head_dim)
    return Variant(layout, torch.bfloat16, group=group, soft_cap=False)


def attend(capability: int, of: Variant) -> Binary:
    return look_into("attend", compiled(of, f"sm_{capability}"))


@pytest.mark.parametrize("capability", [90, 100, 120])
def test_attention_stays_in_registers(capability: int) -> None:
    assert attend(capability, variant("kvarn_k4v2_g128", 128)).stack_bytes == 0


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_head_dimension_does(head_dim: int) -> None:
    """Nearly: sums of 512 channels leave few registers, even to two warps that share a tile."""
    found = attend(90, variant("kvarn_k4v4_g128", head_dim, group=8))
    assert found.stack_bytes <= (128 if head_dim > 256 else 0)


def test_a_packed_tile_takes_few_instructions() -> None:
    """Most of the kernel is the loop over packed tiles."""
    assert attend(90, variant("kvarn_k4v2_g128", 128)).instructions < 4200


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_a_tile_of_any_format_fits_into_shared_memory(head_dim: int) -> None:
    for tile_format in FORMATS.values():
        if is_supported(TileLayout(tile_format, head_dim), torch.bfloat16, group=8):
            asked = variant(tile_format.name, head_dim, group=8).shared_bytes
            assert asked < SHARED_BYTES[90]


def test_what_is_not_supported_is_said() -> None:
    """3-bit keys of some head dimensions, other types, queries that no equal groups hold."""
    layout = TileLayout(FORMATS["kvarn_k3v3_g128"], 80)
    assert not is_supported(layout, torch.bfloat16, group=4)
    layout = TileLayout(FORMATS["kvarn_k4v2_g128"], 80)
    assert is_supported(layout, torch.bfloat16, group=4)
    assert not is_supported(layout, torch.float32, group=4)
    assert is_supported(layout, torch.bfloat16, group=16)
    assert not is_supported(layout, torch.bfloat16, group=11)


def test_the_compiler_says_which_gpus_it_knows() -> None:
    assert is_known((9, 0))
    assert is_known((10, 0))
    assert not is_known((9, 9))
