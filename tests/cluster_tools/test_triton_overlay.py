"""Compiled kernels are kept for a while."""

import os
from pathlib import Path

from hack.cache import Cache
from hack.triton_overlay import KEPT_SECONDS, prune

NOW = 2e9


def compiled(cache: Cache, name: str, *, age_seconds: float) -> Path:
    folder = cache.triton / name
    folder.mkdir(parents=True)
    (folder / "kernel.cubin").touch()
    os.utime(folder, (NOW - age_seconds,) * 2)
    return folder


def test_old_ones_go_and_new_ones_stay(cache: Cache) -> None:
    old = compiled(cache, "old", age_seconds=KEPT_SECONDS + 60)
    new = compiled(cache, "new", age_seconds=KEPT_SECONDS - 60)
    prune(cache, now=NOW)
    assert (old.exists(), new.exists()) == (False, True)


def test_nothing_need_be_there(cache: Cache) -> None:
    prune(cache, now=NOW)
