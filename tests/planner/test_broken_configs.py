"""Whatever a config holds, it gives a shape or a sentence, never a traceback."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvarn.planner import ShapeError, read_shape
from tests.planner.builders import CONFIGS, JUNK, places, with_junk

REAL = {path.stem: json.loads(path.read_text()) for path in sorted(CONFIGS.glob("*__*.json"))}

PLACES = [
    (model, path)
    for model, config in REAL.items()
    for path in places(config)
    if "quantized_layers" not in path
]


def outcome(config: dict[str, Any]) -> str:
    """The sentence that is said, or how large the weights are."""
    try:
        return f"{read_shape(config).weight_bytes} bytes."
    except ShapeError as error:
        return error.message


@settings(max_examples=200)
@given(st.sampled_from(PLACES), st.sampled_from(JUNK))
def test_one_broken_value_gives_a_shape_or_a_sentence(
    place: tuple[str, tuple[Any, ...]], junk: Any
) -> None:
    model, path = place

    assert outcome(with_junk(REAL[model], path, junk)).endswith(".")


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("path", [("attention",), ("attention", "n_heads_in_group"), ("ffn",)])
def test_a_broken_block_of_a_searched_model_gives_a_shape_or_a_sentence(
    path: tuple[str, ...], junk: Any
) -> None:
    place = ("block_configs", 0, *path)
    config = with_junk(REAL["nvidia__Llama-3_3-Nemotron-Super-49B-v1"], place, junk)

    assert outcome(config).endswith(".")


def test_a_list_shorter_than_the_layers_is_named() -> None:
    config = REAL["MiniMaxAI__MiniMax-M3"] | {"moe_layer_freq": [0, 1]}

    assert "moe_layer_freq in the model's config has 2 entries" in outcome(config)


def test_a_model_of_too_many_layers_is_refused_at_once() -> None:
    config = REAL["Qwen__Qwen3-8B"] | {"num_hidden_layers": 1 << 60}

    assert "no model has so many layers" in outcome(config)
