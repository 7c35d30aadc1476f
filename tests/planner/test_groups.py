"""The planner lays caches out as vLLM's own functions do, for every model of the tests' data."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvarn.planner import FORMATS, Accelerator, ModelShape, PlannerError, read_shape
from kvarn.planner.cache import CacheLayout, cache_layout
from kvarn.planner.camel import to_camel
from tests.planner.builders import CONFIGS

pytestmark = pytest.mark.serving

CACHE_BYTES, LONGEST_TOKENS, IN_FLIGHT_TOKENS = 64 << 30, 32768, 4096
"""As in `tests/planner/referee.py`."""


def _shapes() -> dict[str, ModelShape]:
    found = {}
    for path in sorted(CONFIGS.glob("*__*.json")):
        try:
            found[path.stem] = read_shape(path)
        except PlannerError:
            continue
    return found


SHAPES = _shapes()


TILED = ("google__gemma-2-2b-it", "google__gemma-3-1b-it", "Qwen__Qwen3-8B")
"""Models of the tests' data that tiles serve, two of them with sliding windows."""


def layout_of(shape: ModelShape, cache_format: str = "bf16") -> CacheLayout:
    return cache_layout(shape, Accelerator.find("H200"), FORMATS[cache_format])


def announced(shape: ModelShape) -> list[dict[str, Any]]:
    """The layers, with the pages that vLLM's platform gives to attention beside a state."""
    groups = layout_of(shape).groups
    states = any(kind.kind == "state" for kind in shape.kinds)
    page = {
        "blockTokens": max(group.block_tokens for group in groups) if states else 16,
        "pageBytes": groups[0].page_bytes,
    }
    return [to_camel(kind) | page for kind in shape.kinds]


def capacities(asked: dict[str, list[dict[str, Any]]], *options: str) -> dict[str, Any]:
    """What vLLM makes of each model."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("referee.py")), *options],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return loaded


@pytest.fixture(scope="module")
def stock() -> dict[str, Any]:
    return capacities({model: announced(shape) for model, shape in SHAPES.items()})


@pytest.fixture(scope="module")
def tiled() -> dict[str, Any]:
    asked = {model: [to_camel(kind) for kind in SHAPES[model].kinds] for model in TILED}
    return capacities(asked, "kvarn_k4v2_g128")


def planned(layout: CacheLayout) -> dict[str, float]:
    taken = layout.request_blocks(LONGEST_TOKENS, in_flight_tokens=IN_FLIGHT_TOKENS)
    blocks = layout.blocks(CACHE_BYTES)
    tokens = layout.reported_tokens(blocks, LONGEST_TOKENS, taken)
    return {"blocks": blocks, "concurrency": blocks / taken, "tokens": tokens}


@pytest.mark.parametrize("model", SHAPES)
def test_blocks_and_tokens_are_those_of_vllm(model: str, stock: dict[str, Any]) -> None:
    assert stock[model] == planned(layout_of(SHAPES[model]))


@pytest.mark.parametrize("model", TILED)
def test_so_are_they_under_a_format(model: str, tiled: dict[str, Any]) -> None:
    """On a GPU, whose page for a window vLLM would choose by what layer comes first."""
    assert tiled[model] == planned(layout_of(SHAPES[model], "kvarn_k4v2_g128"))
