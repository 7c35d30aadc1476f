"""Which Triton a process compiles with: to be said before anything imports it."""

import os
import sys

from hack import cache
from hack.triton_overlay import RELEASES, overlay

INSTALLED = "installed"
"""The one that the other tests run with."""

BROUGHT = tuple(RELEASES)
"""Those that the supported releases of vLLM bring."""


def folder(release: str) -> str | None:
    """Where a release is imported from, made first if need be; None for the one installed."""
    return None if release == INSTALLED else str(overlay(cache.default(), release))


def compile_with(folder: str | None) -> None:
    """In a new process: let kernels be compiled, not interpreted, by the Triton in a folder.

    What it has compiled before, from the same source, is taken from the cache.
    """
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["TRITON_CACHE_DIR"] = str(cache.default().triton)
    if folder is not None:
        sys.path.insert(0, folder)
