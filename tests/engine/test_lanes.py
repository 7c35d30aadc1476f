"""Each lane runs the release that it is named after, and says so when it cannot be had."""

import sys
from pathlib import Path
from typing import Any

import pytest

from hack.cache import Cache
from hack.errors import Refusal
from hack.vllm_overlay import overlay
from tests.engine.lanes import NEWEST, environment


@pytest.mark.serving
def test_a_lane_runs_its_own_release(host: Any, release: str) -> None:
    assert host.call("version").startswith(f"{release}.")


@pytest.mark.serving
def test_the_overlay_holds_the_cpu_builds_libraries_and_no_others() -> None:
    """CUDA's do not load here, and nothing of them may be picked up by accident."""
    folder = Path(environment(NEWEST)["PYTHONPATH"])
    libraries = {file for file in folder.rglob("*.so") if "orjson" not in file.parts}
    assert libraries
    assert all(Path(sys.prefix) in file.resolve().parents for file in libraries)


def test_where_no_index_is_reached_nothing_stays_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(Refusal, match="configure pip"):
        overlay(Cache(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]
