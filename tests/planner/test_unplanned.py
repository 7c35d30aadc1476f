"""A model that the planner does not know is refused in a sentence, never guessed."""

from typing import Any

import pytest

from kvarn.planner import ShapeError, read_shape
from tests.planner.builders import real_config

NOVEL: dict[str, Any] = {"model_type": "novel", "hidden_act": "silu"}


def _novel(**changes: Any) -> dict[str, Any]:
    return real_config("Meta-Llama-3.1-8B", **NOVEL | changes)


@pytest.mark.parametrize(
    "keys",
    [
        {"model_type": "jamba", "attn_layer_period": 8, "attn_layer_offset": 4},
        {"model_type": "falcon_h1", "mamba_d_state": 256, "mamba_n_heads": 128},
        {"model_type": "bamba", "attn_layer_indices": [9, 18, 27], "mamba_d_ssm": 1024},
        {"model_type": "lfm2", "full_attn_idxs": [2, 5, 8, 10, 12, 14], "conv_L_cache": 3},
        {"ssm_cfg": {"layer": "Mamba2"}},
    ],
    ids=lambda keys: keys.get("model_type", "novel"),
)
def test_layers_with_a_state_are_refused_where_the_type_is_not_known(keys: dict[str, Any]) -> None:
    with pytest.raises(ShapeError, match=r"layers with a state \(.*\).*layerKinds") as raised:
        read_shape(_novel(**keys))

    assert raised.value.reason == "UnknownLayer"


def test_a_key_without_a_value_is_no_sign_of_a_state() -> None:
    config = real_config("Meta-Llama-3.1-8B", **NOVEL)

    assert read_shape(config | {"mamba_d_state": None}) == read_shape(config)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "relu2", "xielu", None])
def test_an_mlp_that_may_lack_a_gate_is_refused(activation: str | None) -> None:
    with pytest.raises(ShapeError, match="novel may have an MLP without a gate") as raised:
        read_shape(_novel(hidden_act=activation))

    assert raised.value.reason == "UnknownMlp"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12}, "intermediate_size"),
        (
            {
                "model_type": "opt",
                "hidden_size": 768,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "ffn_dim": 3072,
            },
            "intermediate_size",
        ),
        (
            {"model_type": "bloom", "hidden_size": 64, "n_layer": 2, "num_attention_heads": 8},
            "intermediate_size",
        ),
        ({"model_type": "dbrx", "d_model": 2048, "n_heads": 16, "n_layers": 24}, "hidden_size"),
        ({"architectures": ["NovelForCausalLM"]}, "hidden_size"),
    ],
)
def test_a_type_with_keys_of_its_own_is_named(config: dict[str, Any], key: str) -> None:
    named = config.get("model_type", "A model without model_type")
    sentence = f"{named}, whose config lacks {key}, is not planned for; state the shape by hand."

    with pytest.raises(ShapeError) as raised:
        read_shape(config)

    assert (raised.value.reason, raised.value.message) == ("UnknownModel", sentence)


@pytest.mark.parametrize(
    "kind", ["ernie4_5_vl_moe_text", "gemma3n_text", "hrm_text", "jetmoe", "phi4mm"]
)
def test_a_type_whose_keys_mislead_is_refused(kind: str) -> None:
    with pytest.raises(ShapeError, match=f"{kind} .* is not planned for; state the shape by hand"):
        read_shape(_novel(model_type=kind))


def test_experts_without_the_number_that_a_token_visits_are_refused() -> None:
    with pytest.raises(ShapeError, match="lacks num_experts_per_tok"):
        read_shape(real_config("Qwen3-30B-A3B", num_experts_per_tok=None))


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"layer_group_size": 8}, "UnknownLayer"),
        ({"loop_num": 2}, "RepeatedLayers"),
        ({"n_recurrent_loops": 3}, "RepeatedLayers"),
        ({"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64}, "UnknownCache"),
        ({"interleaved_sliding_window": [2048, None]}, "UnknownLayer"),
        ({"window_sizes": [[2048, 0]]}, "UnknownLayer"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_key_that_changes_what_layers_keep_is_refused(keys: dict[str, Any], reason: str) -> None:
    with pytest.raises(ShapeError, match="is not planned for; state") as raised:
        read_shape(_novel(**keys))

    assert raised.value.reason == reason
