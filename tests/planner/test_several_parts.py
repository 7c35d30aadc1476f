"""Models with encoders, and with parts that vLLM does not load."""

import json
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from kvarn.planner import ShapeError, read_shape

PARAMETERS = {
    "muse_glimmer": 29_776_626_688,
    "qianfan_ocr": 12_387_044_352,
    "qwen2_5_omni": 11_338_288_896,
    "qwen3_omni_moe": 18_418_329_704,
}
"""Of what vLLM loads, as transformers 5.19 builds it of the default config."""


def _config(kind: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(CONFIG_MAPPING[kind](dtype="bfloat16").to_json_string())
    return config


@pytest.mark.parametrize("kind", PARAMETERS)
def test_weights_are_those_of_the_parts_that_are_loaded(kind: str) -> None:
    shape = read_shape(_config(kind))

    assert shape.weight_bytes / 2 == pytest.approx(PARAMETERS[kind], rel=0.003)
    assert shape.multimodal


def test_what_speaks_is_left_aside() -> None:
    config = _config("qwen3_omni_moe") | {"architectures": ["Qwen3OmniMoeForConditionalGeneration"]}

    shape = read_shape(config)

    assert (shape.architecture, shape.layers, shape.experts) == (
        config["architectures"][0],
        28,
        128,
    )
    assert read_shape(config | {"talker_config": {}}) == shape


@pytest.mark.parametrize("side", [14, [14, 14], [7, 28]])
def test_a_patch_has_one_side_or_two(side: Any) -> None:
    config = _config("internvl")
    square = read_shape(config)
    config["vision_config"]["patch_size"] = side

    assert read_shape(config) == square


@pytest.mark.parametrize("side", [[14, 0], [14, "14"], [[14]], "14", -14])
def test_a_patch_of_no_size_is_named(side: Any) -> None:
    config = _config("internvl")
    config["vision_config"]["patch_size"] = side

    with pytest.raises(ShapeError, match="patch_size in the model's config is"):
        read_shape(config)
