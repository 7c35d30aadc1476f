"""The releases of vLLM that the tests run on, and what a process needs to import one of them."""

import os
from pathlib import Path

import pytest

from hack import cache
from hack.vllm_overlay import overlay

ROOT = Path(__file__).parents[2]

INSTALLED, NEWEST = "0.32", "0.33"
RELEASES = (INSTALLED, NEWEST)

once = pytest.mark.parametrize("release", [INSTALLED], indirect=True)
"""For tests to which the release makes no difference."""


def environment(release: str) -> dict[str, str]:
    """Environment of a process that imports a release."""
    # Bytecode that is never kept costs each process ten seconds.
    ours = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if release == NEWEST:
        ours["PYTHONPATH"] = str(overlay(cache.default()))
    return ours


def host_environment(release: str) -> dict[str, str]:
    """Environment of the host's process."""
    return environment(release) | {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_CI_ENV": "1",  # to compile without a C++ compiler
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # or two workers ask for two NUMA nodes
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
    }
