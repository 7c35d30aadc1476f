"""The longest context that vLLM serves a model with, as `_get_and_verify_max_len` derives it."""

from typing import Any

import pytest

from kvarn.planner import ShapeError, read_shape
from tests.planner.builders import real_config

LINEAR = {"rope_type": "linear", "factor": 8.0}
YARN = {"rope_type": "yarn", "factor": 8.0}
BY_KIND = {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default"}}


def _tokens(**changes: Any) -> int:
    return read_shape(real_config("Qwen3-8B", **changes)).max_position_tokens


@pytest.mark.parametrize(
    ("keys", "tokens"),
    [
        ({}, 40960),
        ({"max_seq_len": 2048}, 2048),
        ({"max_sequence_length": 1024, "max_seq_length": 2048}, 1024),
        ({"max_target_positions": 448}, 448),
        ({"seq_len": 4096, "max_position_embeddings": None}, 4096),
        ({"seq_len": 1 << 20}, 40960),
    ],
)
def test_the_least_of_the_keys_counts(keys: dict[str, Any], tokens: int) -> None:
    assert _tokens(**keys) == tokens


@pytest.mark.parametrize("tokens", [2048, 131072])
@pytest.mark.parametrize("others", [{}, {"max_position_embeddings": None}, {"seq_length": 1024}])
def test_one_key_goes_before_all_others(tokens: int, others: dict[str, Any]) -> None:
    """Command-R has 8,192 positions and a `model_max_length` of 131,072, which is what it takes."""
    assert _tokens(model_max_length=tokens, **others) == tokens


@pytest.mark.parametrize(
    ("ropes", "tokens"),
    [
        ({"rope_scaling": {"factor": 2.0}}, 81920),
        ({"rope_scaling": {"rope_type": "default", "factor": 2.0}}, 81920),
        ({"rope_scaling": {"rope_type": "mrope", "mrope_section": [16, 24, 24]}}, 40960),
        ({"rope_scaling": {"rope_type": "linear", "factor": None}}, 40960),
        ({"rope_scaling": YARN}, 40960),
        ({"rope_scaling": {"rope_type": "deepseek_yarn", "factor": 8.0}}, 40960),
        ({"rope_scaling": {}, "rope_parameters": LINEAR}, 327680),
        ({"rope_parameters": BY_KIND, "layer_types": ["full_attention"] * 36}, 327680),
        ({"rope_parameters": BY_KIND}, 40960),
        ({"rope_parameters": {"full_attention": YARN}, "layer_types": ["attention"] * 36}, 40960),
        ({"model_max_length": 1000, "rope_scaling": LINEAR}, 8000),
    ],
)
def test_rope_lengthens_it_unless_its_factor_is_in_it(ropes: dict[str, Any], tokens: int) -> None:
    assert _tokens(**ropes) == tokens


@pytest.mark.parametrize("length", [-1, 1e30, "long"])
def test_a_length_that_is_none_is_named(length: Any) -> None:
    with pytest.raises(ShapeError, match="model_max_length in the model's config is"):
        _tokens(model_max_length=length)


@pytest.mark.parametrize("factor", [float("inf"), float("nan"), -1.0, "much"])
def test_a_factor_that_is_none_is_named(factor: Any) -> None:
    with pytest.raises(ShapeError, match="factor in the model's config is"):
        _tokens(rope_scaling={"rope_type": "linear", "factor": factor})
