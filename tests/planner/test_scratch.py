"""What kernels keep between them is in the account of the formats that have such kernels."""

import pytest

from kvarn.planner import Accelerator, plan
from kvarn.planner.accelerators import GIB
from kvarn.planner.version import MIB
from kvarn.planner.workload import Limits
from tests.planner.builders import real_shape

QWEN = real_shape("Qwen3-8B")


@pytest.mark.parametrize(
    ("count", "tokens", "mebibytes"), [(1, 8192, 64 + 64 + 128), (2, 2048, 64 + 8 + 128)]
)
def test_tiles_on_a_gpu_need_room_for_queries_and_prompts(
    count: int, tokens: int, mebibytes: int
) -> None:
    limits = Limits(max_batched_tokens=tokens)
    device = Accelerator.find("H200", count=count)
    made = plan(QWEN, device, limits=limits, cache_format="kvarn_k4v2_g128")
    assert made.line("scratch") == mebibytes * MIB


@pytest.mark.parametrize(
    ("device", "cache_format"),
    [
        (Accelerator.find("H200"), "bf16"),
        (Accelerator.cpu(memory_bytes=64 * GIB), "kvarn_k4v2_g128"),
    ],
)
def test_nothing_else_does(device: Accelerator, cache_format: str) -> None:
    made = plan(QWEN, device, cache_format=cache_format)
    assert "scratch" not in {line.name for line in made.account}
