"""Shapes of models whose layers differ, and of models of several parts."""

import pytest

from kvarn.planner import ShapeError, read_shape
from kvarn.planner.layer_kind import LayerKind
from tests.planner.builders import real_config, real_shape

FILES_GIB = {
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 58.82,
    "Kimi-K2.5": 554.32,
    "MiniMax-M2.5": 214.34,
    "Qwen3-30B-A3B": 56.87,
}
"""Sizes of the weight files, from KAITO's model catalogue (MIT)."""

FILES_WITH_DRAFT_GIB = {
    "DeepSeek-V3.2": 642.14,
    "GLM-5.2-FP8": 703.75,
    "Qwen3.5-122B-A10B": 232.99,
}
"""The same for files that hold a draft layer too, which vLLM leaves aside."""

READ_BY_VLLM = {
    "Llama-4-Scout-17B-16E-Instruct": (5120, 48, 40, 8, 128, 202048, 16),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": (2688, 52, 32, 2, 128, 131072, 128),
    "DeepSeek-V3.2": (7168, 61, 128, 128, 576, 129280, 256),
}
"""Hidden size, layers, query heads, KV heads, head size, vocabulary and experts by vLLM's own test
table (`tests/config/base_model_arch_groundtruth.json`, Apache-2.0)."""


@pytest.mark.parametrize("model", FILES_GIB)
def test_weights_are_as_large_as_the_files(model: str) -> None:
    assert real_shape(model).weight_bytes / 2**30 == pytest.approx(FILES_GIB[model], rel=0.002)


@pytest.mark.parametrize("model", ["DeepSeek-V3.2", "GLM-5.2-FP8"])
def test_a_draft_layer_is_left_aside(model: str) -> None:
    gib = real_shape(model).weight_bytes / 2**30

    assert 0.97 < gib / FILES_WITH_DRAFT_GIB[model] < 0.995


@pytest.mark.parametrize("model", READ_BY_VLLM)
def test_vllm_reads_the_same_numbers(model: str) -> None:
    shape = real_shape(model)

    widths = {kind.head_dim for kind in shape.kinds if kind.head_dim}
    found = (
        *(shape.hidden_size, shape.layers, shape.attention_heads, shape.kv_heads),
        *(max(widths), shape.vocab_size, shape.experts),
    )
    assert found == READ_BY_VLLM[model]


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        ("DeepSeek-V2-Lite", [LayerKind(kind="latent", layers=27, kv_heads=1, head_dim=576)]),
        (
            "GLM-5.2-FP8",
            [
                LayerKind(kind="latent", layers=78, kv_heads=1, head_dim=576),
                LayerKind(kind="index", layers=21, token_bytes=132),
            ],
        ),
        (
            "gemma-4-26B-A4B",
            [
                LayerKind(kind="window", layers=25, kv_heads=8, head_dim=256, window_tokens=1024),
                LayerKind(kind="full", layers=5, kv_heads=2, head_dim=512),
            ],
        ),
        (
            "MiMo-V2-Flash",
            [
                LayerKind(kind="full", layers=9, kv_heads=4, head_dim=192, value_dim=128),
                LayerKind(
                    kind="window",
                    layers=39,
                    kv_heads=8,
                    head_dim=192,
                    value_dim=128,
                    window_tokens=128,
                ),
            ],
        ),
        (
            "Qwen3.5-35B-A3B",
            [
                LayerKind(kind="state", layers=30, state_bytes=8192 * 3 * 2 + 32 * 128 * 128 * 4),
                LayerKind(kind="full", layers=10, kv_heads=2, head_dim=256),
            ],
        ),
        (
            "Llama-4-Scout-17B-16E-Instruct",
            [
                LayerKind(kind="chunk", layers=36, kv_heads=8, head_dim=128, window_tokens=8192),
                LayerKind(kind="full", layers=12, kv_heads=8, head_dim=128),
            ],
        ),
        (
            "Llama-3_3-Nemotron-Super-49B-v1",
            [LayerKind(kind="full", layers=49, kv_heads=8, head_dim=128)],
        ),
        (
            "MiniMax-M3",
            [
                LayerKind(kind="full", layers=60, kv_heads=4, head_dim=128),
                LayerKind(kind="index", layers=57, token_bytes=256),
            ],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_layers_are_told_apart_by_what_they_keep(model: str, kinds: list[LayerKind]) -> None:
    assert list(real_shape(model).layer_kinds) == kinds


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        ("Kimi-K3", {"state": 69, "latent": 24}),
        ("Nemotron-H-56B-Base-8K", {"state": 54, "full": 10}),
        ("NVIDIA-Nemotron-3-Ultra-550B-A55B-FP8", {"state": 48, "full": 12}),
        ("Qwen3.6-27B-NVFP4", {"state": 48, "full": 16}),
        ("Step-3.7-Flash", {"full": 12, "window": 33}),
        ("gpt-oss-120b", {"full": 18, "window": 18}),
        ("MiniCPM3-4B", {"full": 62}),
        ("glm-4-9b", {"full": 40}),
        ("Qwen3-VL-30B-A3B-Instruct", {"full": 48}),
    ],
)
def test_layers_are_counted_by_kind(model: str, counts: dict[str, int]) -> None:
    assert {kind.kind: kind.layers for kind in real_shape(model).kinds} == counts


@pytest.mark.parametrize(
    ("model", "gib"),
    [
        ("Llama-3.1-70B-Instruct-FP8", 67.7),
        ("Gemma-4-31B-IT-NVFP4", 31.18),
        ("gpt-oss-120b", 64.38),
        ("Qwen3-Embedding-8B", 14.11),
    ],
)
def test_weights_in_memory_are_what_logs_of_real_starts_show(model: str, gib: float) -> None:
    """The first knows its quantisation by its name alone, the last has no output layer."""
    assert real_shape(model).weight_bytes / 2**30 == pytest.approx(gib, rel=0.04)


def test_a_wrapped_config_may_leave_out_what_its_type_implies() -> None:
    """Published Gemma 3 configs do."""
    text = {"hidden_size": 3840, "num_hidden_layers": 48, "model_type": "gemma3_text"}
    more = {"num_attention_heads": 16, "num_key_value_heads": 8, "sliding_window": 1024}
    shape = read_shape({"text_config": text | more | {"intermediate_size": 15360}})

    assert (shape.vocab_size, shape.head_dim, shape.sliding_layers) == (262208, 256, 40)


def test_a_type_that_nobody_described_is_read_by_its_keys() -> None:
    known = real_shape("Meta-Llama-3.1-8B")

    assert (
        read_shape(real_config("Meta-Llama-3.1-8B", model_type="novel", hidden_act="silu")) == known
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ({"kind": "round", "layers": 1}, "kind is 'round'; use one of full"),
        ({"kind": "full", "layers": 1}, "kvHeads of the full layers is 0"),
        ({"layers": 1}, "layerKinds lacks kind"),
        ({"kind": "state", "layers": 99, "stateBytes": 1}, "layerKinds have more layers"),
        ({"kind": "state", "layers": 1, "stateBytes": 1, "size": 1}, "size is no field"),
        ("full", "give a list of objects"),
    ],
)
def test_layers_given_by_hand_are_checked(kind: object, words: str) -> None:
    from kvarn.planner import ModelShape

    with pytest.raises(ShapeError, match=words):
        ModelShape.from_dict(real_shape("Qwen3-8B").to_dict() | {"layerKinds": [kind]})
