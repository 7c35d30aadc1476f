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


def layout_of(shape: ModelShape) -> CacheLayout:
    return cache_layout(shape, Accelerator.find("H200"), FORMATS["bf16"])


def announced(shape: ModelShape) -> list[dict[str, Any]]:
    """The layers, with the pages that vLLM's platform gives to attention beside a state."""
    groups = layout_of(shape).groups
    states = any(kind.kind == "state" for kind in shape.kinds)
    page = {
        "blockTokens": max(group.block_tokens for group in groups) if states else 16,
        "pageBytes": groups[0].page_bytes,
    }
    return [to_camel(kind) | page for kind in shape.kinds]


@pytest.fixture(scope="module")
def capacities() -> dict[str, dict[str, float]]:
    """What vLLM makes of each model."""
    asked = {model: announced(shape) for model, shape in SHAPES.items()}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("referee.py"))],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return loaded


@pytest.mark.parametrize("model", SHAPES)
def test_blocks_and_tokens_are_those_of_vllm(
    model: str, capacities: dict[str, dict[str, float]]
) -> None:
    layout = layout_of(SHAPES[model])
    taken = layout.request_blocks(LONGEST_TOKENS, in_flight_tokens=IN_FLIGHT_TOKENS)
    blocks = layout.blocks(CACHE_BYTES)

    assert capacities[model] == {
        "blocks": blocks,
        "concurrency": blocks / taken,
        "tokens": layout.reported_tokens(blocks, LONGEST_TOKENS, taken),
    }
