"""Every kernel compiles with each Triton that a supported vLLM brings, for every GPU it runs on."""

from collections.abc import Mapping
from concurrent.futures import Future
from itertools import chain, product

import pytest
import torch

from tests.kernels import (
    test_dense_prefill_compiled,
    test_triton_attention_compiled,
    test_triton_store_compiled,
)
from tests.kernels.compiled import Binary, compiling
from tests.kernels.releases import BROUGHT

CAPABILITIES = (80, 89, 90, 100)
NAMES = {
    *("_rotate_queries", "attend", "combine", "_attend_many"),
    *("_store", "_write"),
    *("_place", "_dequantise", "_copy_own", "_join"),
}
STACK_BYTES: Mapping[str, Mapping[str, int]] = {
    "3.7.1": {"attend": 32, "_attend_many": 64},
    "3.8.0": {"attend": 192, "_attend_many": 96, "_store": 160, "_copy_own": 64},
}
"""What a thread may spill; kernels that are not named spill nothing.

From the same source 3.8 makes code that needs more registers. Where that would cost most, on Hopper
and later, kernels in CUDA C++ read and store the tiles; these are there for what those leave.
"""

Compiling = Mapping[tuple[str, int], list[Future[list[Binary]]]]


@pytest.fixture(scope="module")
def kernels() -> Compiling:
    """All of them, by release and capability. Releases are at work side by side."""
    return {case: launches(*case) for case in product(BROUGHT, CAPABILITIES)}


def launches(release: str, capability: int) -> list[Future[list[Binary]]]:
    """What has a prompt attended, stored, and unpacked for the library."""
    of = ("kvarn_k4v2_g128", 128)
    return [
        compiling(release, capability, test_triton_attention_compiled.launch, *of, tokens=100),
        compiling(
            release, capability, test_triton_store_compiled.launch, *of, dtype=torch.bfloat16
        ),
        compiling(release, capability, test_dense_prefill_compiled.launch, *of),
    ]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("release", BROUGHT)
def test_every_kernel_compiles_and_spills_little(
    kernels: Compiling, release: str, capability: int
) -> None:
    found = list(chain.from_iterable(each.result() for each in kernels[release, capability]))
    assert {kernel.name for kernel in found} == NAMES
    for kernel in found:
        assert kernel.stack_bytes <= STACK_BYTES[release].get(kernel.name, 0), kernel
