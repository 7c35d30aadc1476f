"""Every kernel starts on the GPUs whose programs have 99 KiB of shared memory, and computes."""

import pytest
import torch

from kvarn.format.layout import FORMATS, TileLayout
from kvarn.kernels import triton
from kvarn.kernels.triton import attention, parts, prefill
from kvarn.kernels.triton.arguments import Attention
from tests.kernels import test_dense_prefill_compiled, test_triton_store_compiled
from tests.kernels.compiled import Binary, binaries
from tests.kernels.model import Model
from tests.kernels.steps import World

# Triton's interpreter counts loops with arrays of one number.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Conversion of an array with ndim > 0:DeprecationWarning"
)


def launch_steps(name: str, head_dim: int, dtype: torch.dtype) -> None:
    """A prompt stored; then a token, a few, and many attended after other tiles."""
    test_triton_store_compiled.launch(name, head_dim, dtype=dtype)
    for tokens in (1, attention.FEW_TOKENS, 100):
        launch_attention(name, head_dim, dtype, tokens)


def launch_attention(name: str, head_dim: int, dtype: torch.dtype, tokens: int) -> None:
    """The last tokens of a sequence of three tiles, with as many columns as they fill."""
    layout = TileLayout(FORMATS[name], head_dim)
    world = World(layout, [300], dtype=dtype, device=torch.device("cpu"))
    step, cache = triton.prepare(world.batch({0: (300 - tokens, 300)})), world.cache([0])
    keys, values = (rows[0][-tokens:] for rows in (world.keys, world.values))
    query = torch.zeros(tokens, 4 * world.heads, head_dim, dtype=dtype)
    asked = Attention(query, keys, values, out=query, scale=1.0, soft_cap=0.0)
    attention.attend(step, cache, asked)


def reads(found: list[Binary]) -> set[str]:
    """Which kernels read tiles."""
    return {binary.name for binary in found} & {"attend", "_attend_many"}


@pytest.mark.parametrize(
    ("capability", "name", "head_dim"),
    [
        (89, "kvarn_k3v3_g128", 80),
        (120, "kvarn_k3v3_g128", 128),
        (86, "kvarn_k4v4_g128", 256),
        (120, "kvarn_k4v4_g128", 512),
    ],
)
def test_the_largest_kernels_fit(capability: int, name: str, head_dim: int) -> None:
    """Those of other formats and head dimensions need less."""
    found = binaries(capability, launch_steps, name, head_dim, torch.bfloat16)
    assert reads(found) == {"attend", "_attend_many"}


def test_wide_tiles_in_3_bits_are_unpacked_whole() -> None:
    """In parts they would need 141,312 bytes."""
    found = binaries(89, launch_attention, "kvarn_k4v3_g128", 512, torch.bfloat16, 1)
    assert reads(found) == {"_attend_many"}


@pytest.mark.parametrize("name", ["kvarn_raw_g128", "kvarn_k4v2_g128"])
def test_wide_tiles_fit_in_float32(name: str) -> None:
    found = binaries(89, launch_attention, name, 512, torch.float32, 100)
    assert reads(found) == {"_attend_many"}


def test_what_unpacks_tiles_for_a_library_fits() -> None:
    found = binaries(89, test_dense_prefill_compiled.launch, "kvarn_k4v3_g128", 256)
    assert "_dequantise" in {binary.name for binary in found}


@pytest.mark.parametrize("name", ["kvarn_k4v3_g128", "kvarn_k4v4_g128", "kvarn_raw_g128"])
def test_results_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (attention, parts, prefill):
        monkeypatch.setattr(module, "is_roomy", lambda: False)
    layout = TileLayout(FORMATS[name], 512)
    model = Model(layout, [150], kernels=triton, heads=1, dtype=torch.float16)
    for chunk in ((0, 148), (148, 149), (149, 150)):
        model.run({0: chunk})
    model.check()
