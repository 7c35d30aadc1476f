"""Models of transformers in their default sizes: what they weigh, and what their layers keep."""

import json
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from kvarn.planner import ModelShape, read_shape

HYBRID = ["linear_attention"] * 9 + ["full_attention"]
CHANGES: dict[str, dict[str, Any]] = {
    "granitemoehybrid": {
        "layer_types": 4 * HYBRID,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
    },
    "nemotron": {"num_key_value_heads": 8},
    "nemotron_h": {"layers_block_type": 4 * ["linear_attention", "moe", "full_attention", "mlp"]},
}
PARAMETERS = {
    "afmoe": 19_232_600_000,
    "apertus": 6_979_596_352,
    "arcee": 4_022_766_080,
    "aria_text": 18_517_069_824,
    "ernie4_5_moe": 21_825_437_888,
    "falcon": 6_921_720_704,
    "gemma4_text": 5_077_177_856,
    "gpt_neox": 20_554_567_680,
    "granitemoehybrid": 47_940_218_368,
    "jais2": 8_090_401_280,
    "nemotron": 15_628_775_424,
    "nemotron_h": 4_652_185_088,
    "olmo_hybrid": 7_430_870_688,
    "persimmon": 9_397_175_296,
}
"""As the models that transformers 5.19 builds of these configs have them."""


def _shape(kind: str) -> ModelShape:
    config = CONFIG_MAPPING[kind](dtype="bfloat16", **CHANGES.get(kind, {}))
    return read_shape(json.loads(config.to_json_string()))


@pytest.mark.parametrize("kind", PARAMETERS)
def test_weights_are_those_that_transformers_builds(kind: str) -> None:
    assert _shape(kind).weight_bytes / 2 == pytest.approx(PARAMETERS[kind], rel=3e-5)


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("granitemoehybrid", {"state": 36, "full": 4}),
        ("nemotron_h", {"state": 4, "full": 4}),
        ("gemma4_text", {"window": 25, "full": 5}),
        ("olmo_hybrid", {"state": 24, "full": 8}),
    ],
)
def test_layers_are_counted_by_kind(kind: str, counts: dict[str, int]) -> None:
    assert {found.kind: found.layers for found in _shape(kind).kinds} == counts


@pytest.mark.parametrize(("kind", "chosen"), [("aria_text", 2), ("ernie4_5_moe", 6)])
def test_experts_that_a_token_visits_go_by_many_names(kind: str, chosen: int) -> None:
    assert _shape(kind).experts_per_token == chosen


@pytest.mark.parametrize(
    ("changes", "kv_heads"),
    [
        ({}, 1),
        ({"multi_query": False}, 71),
        ({"new_decoder_architecture": True, "num_kv_heads": 1}, 1),
        ({"new_decoder_architecture": True}, 71),
    ],
)
def test_falcon_shares_one_kv_head_among_all_queries(
    changes: dict[str, Any], kv_heads: int
) -> None:
    """As `FalconModelArchConfigConvertor` of vLLM reads it."""
    config = json.loads(CONFIG_MAPPING["falcon"](dtype="bfloat16").to_json_string())

    assert read_shape(config | changes).kv_heads == kv_heads


def test_attention_biased_by_distance_is_a_trait() -> None:
    config = json.loads(CONFIG_MAPPING["falcon"](alibi=True).to_json_string())

    assert read_shape(config).attention_traits == ("alibi",)


def test_a_granite_without_experts_has_the_mlp_that_they_would_share() -> None:
    changes = {"num_local_experts": 0, "intermediate_size": 512, "shared_intermediate_size": 1024}
    hybrid = {"layer_types": HYBRID, "num_hidden_layers": 10}
    config = CONFIG_MAPPING["granitemoehybrid"](dtype="bfloat16", **hybrid, **changes)

    assert read_shape(json.loads(config.to_json_string())).intermediate_size == 1024
