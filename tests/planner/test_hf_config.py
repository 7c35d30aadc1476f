"""Shapes from the configs of real models."""

import json
from pathlib import Path
from typing import Any

import pytest

from kvarn.planner import ModelShape, ShapeError, read_shape
from tests.planner.builders import GEMMA_3, config_path, real_config, real_shape

PARAMETERS = {
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Llama-2-7b-hf": 6_738_415_616,
    "Llama-3.2-1B": 1_235_814_400,
    "Meta-Llama-3.1-8B": 8_030_261_248,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Mistral-Nemo-Instruct-2407": 12_247_782_400,
    "Mixtral-8x22B-v0.1": 140_620_634_112,
    "Phi-3-mini-128k-instruct": 3_821_079_552,
    "gemma-2-2b-it": 2_614_341_888,
    "gemma-3-1b-it": 999_885_952,
}
"""As the hub counts them in the published weights."""


@pytest.mark.parametrize("model", PARAMETERS)
def test_weights_are_counted_to_the_last_one(model: str) -> None:
    assert real_shape(model).weight_bytes == 2 * PARAMETERS[model]


def test_fp8_weights_take_a_byte_except_embeddings_and_norms() -> None:
    """Qwen3-32B-FP8's files have 31.97 GiB."""
    shape = real_shape("Qwen3-32B-FP8")

    assert shape.quantization == "fp8"
    assert shape.weight_bytes / 2**30 == pytest.approx(31.97, abs=0.03)


@pytest.mark.parametrize(
    ("quantization", "gib"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 5.35),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 5.35),
        (
            {
                "quant_method": "compressed-tensors",
                "ignore": ["lm_head"],
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "strategy": "channel"}}},
            },
            8.46,
        ),
    ],
    ids=lambda value: value.get("quant_method") if isinstance(value, dict) else "",
)
def test_quantised_weights_are_counted_by_their_bits(
    quantization: dict[str, Any], gib: float
) -> None:
    """Real starts of Llama-3.1-8B show 5.35 GiB for 4 bits; 8 bits follow from the same count."""
    shape = read_shape(real_config("Meta-Llama-3.1-8B", quantization_config=quantization))

    assert shape.weight_bytes / 2**30 == pytest.approx(gib, rel=0.01)


@pytest.mark.parametrize(
    ("model", "kv_heads", "head_dim", "tied"),
    [
        ("Qwen2.5-0.5B", 2, 64, True),
        ("Llama-2-7b-hf", 32, 128, False),
        ("Mistral-Nemo-Instruct-2407", 8, 128, False),
        ("gemma-2-2b-it", 4, 256, True),
        ("gemma-3-1b-it", 1, 256, True),
    ],
)
def test_heads_and_tied_embeddings(model: str, kv_heads: int, head_dim: int, tied: bool) -> None:
    shape = real_shape(model)

    assert (shape.kv_heads, shape.head_dim, shape.tied_embeddings) == (kv_heads, head_dim, tied)


@pytest.mark.parametrize(
    ("model", "window", "layers"),
    [
        ("Qwen2.5-32B", 0, 0),
        ("Mistral-7B-v0.1", 4096, 32),
        ("gemma-2-2b-it", 4096, 13),
        ("gemma-3-1b-it", 512, 22),
    ],
)
def test_sliding_windows_count_only_where_the_model_uses_them(
    model: str, window: int, layers: int
) -> None:
    shape = real_shape(model)

    assert (shape.sliding_window_tokens, shape.sliding_layers) == (window, layers)


def test_named_layer_types_go_before_the_pattern() -> None:
    kinds = ["sliding_attention", "full_attention"] * 13

    shape = read_shape(real_config("gemma-3-1b-it", layer_types=kinds))

    assert shape.sliding_layers == 13


@pytest.mark.parametrize(
    ("scaling", "tokens"),
    [
        (None, 131072),
        ({"rope_type": "llama3", "factor": 8.0}, 131072),
        ({"type": "linear", "factor": 2.0}, 262144),
    ],
)
def test_rope_scaling_lengthens_the_context_as_vllm_does(
    scaling: dict[str, Any] | None, tokens: int
) -> None:
    config = real_config("Meta-Llama-3.1-8B", rope_scaling=scaling)

    assert read_shape(config).max_position_tokens == tokens


@pytest.mark.parametrize("scaled", [{}, {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}])
def test_gemma_3_has_its_factor_in_its_context_already(scaled: dict[str, Any]) -> None:
    config = {"model_type": "gemma3", "text_config": GEMMA_3 | scaled}

    assert read_shape(config).max_position_tokens == 131072


@pytest.mark.parametrize(
    ("outer", "inner", "traits"),
    [
        ({"model_type": "gemma3"}, {}, ("images",)),
        ({"model_type": "paligemma"}, {"model_type": "gemma2"}, ("softcap", "images")),
        ({"model_type": "mllama", "is_mm_prefix_lm": True}, {}, ("images",)),
        ({"model_type": "gemma3", "is_mm_prefix_lm": False}, {}, ()),
        (
            {"model_type": "gemma4"},
            {"model_type": "gemma4_text", "use_bidirectional_attention": "vision"},
            ("images",),
        ),
        ({"model_type": "gemma3n"}, {}, ()),
    ],
)
def test_images_whose_tokens_attend_to_each_other_are_a_trait(
    outer: dict[str, Any], inner: dict[str, Any], traits: tuple[str, ...]
) -> None:
    """As `is_mm_prefix_lm` of vLLM's `model_arch_config_convertor.py` finds it out."""
    text = real_config("gemma-3-1b-it") | inner

    assert read_shape(outer | {"text_config": text}).attention_traits == traits


def test_a_text_model_alone_has_no_images() -> None:
    assert real_shape("gemma-3-1b-it").attention_traits == ()


def test_a_float32_model_is_served_in_bfloat16() -> None:
    shape = read_shape(real_config("Llama-3.2-1B", torch_dtype="float32"))

    assert shape == real_shape("Llama-3.2-1B")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("DeepSeek-V4-Flash", "CompressedAttention"),
        ("Llama-3.2-11B-Vision-Instruct", "CrossAttention"),
    ],
)
def test_what_is_not_planned_for_gets_a_reason_instead_of_a_number(model: str, reason: str) -> None:
    with pytest.raises(ShapeError) as raised:
        real_shape(model)

    assert raised.value.reason == reason


def test_a_model_that_only_its_own_code_describes_is_named() -> None:
    with pytest.raises(ShapeError, match="brings code of its own") as raised:
        read_shape({"model_type": "novel", "auto_map": {"AutoModel": "novel.Novel"}, "depth": 3})

    assert raised.value.reason == "RemoteCode"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers in the model's config is 'many'"),
        ({"num_hidden_layers": -1}, "positive integer"),
        ({"model_type": None, "architectures": None}, "lacks model_type"),
        ({"max_position_embeddings": None}, "lacks max_position_embeddings"),
        ({"quantization_config": {"quant_method": "exotic"}}, "quantised as exotic"),
        ({"quantization_config": "fp8"}, "its description is no object"),
        ({"rope_scaling": {"type": "linear", "factor": "much"}}, "factor"),
        ({"num_key_value_heads": 7}, "no multiple of kvHeads"),
    ],
)
def test_a_broken_config_names_the_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        read_shape(real_config("Meta-Llama-3.1-8B", **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", '"config"', "\x00"])
def test_a_file_that_is_no_config_says_so(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)

    with pytest.raises(ShapeError, match=r"config\.json"):
        read_shape(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="No such file"):
        read_shape(tmp_path / "absent.json")


def test_a_folder_and_its_config_give_the_same_shape(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(config_path("Qwen3-8B").read_bytes())

    assert read_shape(tmp_path) == real_shape("Qwen3-8B")


@pytest.mark.parametrize("model", PARAMETERS)
def test_a_shape_survives_json(model: str) -> None:
    shape = real_shape(model)

    assert ModelShape.from_dict(json.loads(json.dumps(shape.to_dict()))) == shape


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"layers": True}, "layers is True; give an integer"),
        ({"layers": None}, "lacks layers"),
        ({"dtype": "int4"}, "dtype is 'int4'"),
        ({"sliding_layers": 1}, "sliding_layers is no field"),
        ({"slidingLayers": 99}, "slidingLayers"),
        ({"attentionTraits": "sinks"}, "give a list of words"),
    ],
)
def test_a_shape_given_by_hand_is_checked(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        ModelShape.from_dict(real_shape("Qwen3-8B").to_dict() | changes)
