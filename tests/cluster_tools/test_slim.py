"""Cutting a shared object off behind its last segment leaves it loadable."""

import ctypes
import subprocess
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A shared object that computes."""
    source = tmp_path / "twice.c"
    source.write_text(
        "static int hidden(int n) { return n + n; } int twice(int n) { return hidden(n); }"
    )
    library = tmp_path / "twice.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-g", "-o", library, source], check=True)
    return library


def test_it_shrinks_and_still_computes(library: Path, slim: ModuleType) -> None:
    before = library.stat().st_size
    saved = slim.drop_symbols(library)
    assert 0 < saved == before - library.stat().st_size
    assert ctypes.CDLL(str(library)).twice(21) == 42


def test_twice_is_as_once(library: Path, slim: ModuleType) -> None:
    slim.drop_symbols(library)
    once = library.read_bytes()
    assert slim.drop_symbols(library) == 0
    assert library.read_bytes() == once


def test_other_files_stay_as_they_are(tmp_path: Path, slim: ModuleType) -> None:
    script = tmp_path / "libfake.so"
    script.write_text("/* GNU ld script */ INPUT(-lc)")
    assert slim.drop_symbols(script) == 0
    assert script.read_text() == "/* GNU ld script */ INPUT(-lc)"
