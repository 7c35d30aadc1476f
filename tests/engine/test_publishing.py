"""A tile that a single token completes is found by others from the next step on, not at once."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.serving

PROMPT = [(7 * token * token) % 256 for token in range(128)]


def served(host: Any, model: str, *, prompt: int, after: int, **options: Any) -> dict[str, Any]:
    options = {"kv_cache_dtype": "kvarn_k4v2_g128", "max_num_batched_tokens": 512} | options
    found: dict[str, Any] = host.call(
        "reads_of_tiles_stored_beside",
        model=model,
        options=options,
        prompt=PROMPT[:prompt],
        after=after,
    )
    assert found["single"] > 20
    return found


@pytest.mark.parametrize(
    ("prompt", "after", "options"),
    [
        pytest.param(120, 8, {}, id="an answer reaches the end of a tile"),
        pytest.param(
            128, 1, {"max_num_batched_tokens": 127}, id="a prompt leaves a token for its own step"
        ),
        pytest.param(120, 8, {"kv_cache_dtype_skip_layers": ["0"]}, id="without the first layer"),
        pytest.param(120, 8, {"kv_cache_dtype_skip_layers": ["3"]}, id="without the last layer"),
    ],
)
def test_who_comes_in_that_step_computes_the_tile_again(
    host: Any, tiny_model: Callable[..., str], prompt: int, after: int, options: dict[str, Any]
) -> None:
    """Also where tiles share their block table with layers that stay out of the format."""
    found = served(host, tiny_model(), prompt=prompt, after=after, **options)
    assert found["reads"] == 0
    assert found["cached"] == 0


def test_who_comes_in_the_next_step_finds_it(host: Any, tiny_model: Callable[..., str]) -> None:
    found = served(host, tiny_model(), prompt=120, after=9)
    assert found["completing"] == 1
    assert (found["reads"], found["cached"]) == (0, 128)


def test_who_comes_with_a_prompt_finds_its_tiles_at_once(
    host: Any, tiny_model: Callable[..., str]
) -> None:
    """Of a step that has more than single tokens, tiles are stored before anything is attended."""
    found = served(host, tiny_model(), prompt=128, after=0)
    assert (found["reads"], found["cached"]) == (0, 128)
