"""The releases of vLLM that the tests run on, and what a process needs to import one of them."""

import os

import pytest

from hack import cache
from hack.vllm_overlay import overlay

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
