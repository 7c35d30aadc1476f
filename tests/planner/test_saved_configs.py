"""A config that transformers 5 has loaded and saved again describes the same model."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from kvarn.planner import ModelShape, ShapeError, read_shape
from tests.planner.builders import CONFIGS, GEMMA_3, config_path, real_config

ENCODER = ("multimodal", "weightBytes")
"""What differs where transformers fills in an encoder that the config here leaves out."""
MISREAD = ("Phi-3-mini-128k-instruct", "MiniCPM3-4B", "Step-3.7-Flash")
"""Models whose config here transformers does not load: the lists of RoPE factors are left out of
the first two, and the last keeps what describes its language model apart from `text_config`."""
FILLED = ("Llama-4-Scout-17B-16E-Instruct",)


def _planned() -> list[str]:
    """Models of types that transformers has built in, whose published config gives a shape."""
    known = [path for path in sorted(CONFIGS.glob("*__*.json")) if _is_planned(path)]
    return [name for path in known if (name := path.stem.split("__")[1]) not in MISREAD]


def _is_planned(path: Path) -> bool:
    config = json.loads(path.read_text())
    try:
        return config.get("model_type") in CONFIG_MAPPING and bool(read_shape(config))
    except ShapeError:
        return False


def _saved(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    for rope in config.get("text_config", config).get("rope_parameters", {}).values():
        if isinstance(rope, dict):
            rope.setdefault("rope_theta", 1e6)
    CONFIG_MAPPING[config["model_type"]].from_dict(config).save_pretrained(folder)
    saved: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return saved


def _fields(shape: ModelShape, model: str) -> dict[str, Any]:
    hidden = ENCODER if model in FILLED else ()
    return {key: value for key, value in shape.to_dict().items() if key not in hidden}


@pytest.mark.parametrize("model", _planned())
def test_a_saved_config_gives_the_same_shape(model: str, tmp_path: Path) -> None:
    saved = _saved(json.loads(config_path(model).read_text()), tmp_path)

    assert _fields(read_shape(saved), model) == _fields(read_shape(real_config(model)), model)


SLIDING = {"head_dim": 64, "num_attention_heads": 32, "num_key_value_heads": 16}


@pytest.mark.parametrize("padding", [1, 2])
def test_each_reach_has_the_widths_that_its_layers_state(padding: int) -> None:
    stated = {str(layer).zfill(padding): SLIDING for layer in range(48) if (layer + 1) % 6}

    windows, full = sorted(
        read_shape(_gemma(per_layer_config=stated)).kinds, key=lambda kind: kind.kind != "window"
    )

    assert (windows.layers, windows.kv_heads, windows.head_dim) == (40, 16, 64)
    assert (full.layers, full.kv_heads, full.head_dim) == (8, 8, 256)


@pytest.mark.parametrize(
    "stated",
    [
        {"0": {"head_dim": 64}},
        {str(layer): {"num_key_value_heads": 1 + layer} for layer in range(48)},
        {str(layer): {"intermediate_size": 64} for layer in range(48)},
        {str(layer): [64] for layer in range(48)},
    ],
)
def test_layers_of_one_reach_that_differ_are_refused(stated: dict[str, Any]) -> None:
    with pytest.raises(ShapeError, match="state layerKinds") as raised:
        read_shape(_gemma(per_layer_config=stated))

    assert raised.value.reason == "LayersDiffer"


@pytest.mark.parametrize(("outer", "inner"), [(True, False), (False, True), (True, True)])
def test_the_output_is_the_embedding_where_no_part_denies_it(outer: bool, inner: bool) -> None:
    text = _gemma(tie_word_embeddings=inner)
    shape = read_shape({"model_type": "gemma3", "tie_word_embeddings": outer, "text_config": text})

    assert shape.tied_embeddings == (outer and inner)


def _gemma(**changes: Any) -> dict[str, Any]:
    layers = [
        "full_attention" if (layer + 1) % 6 == 0 else "sliding_attention" for layer in range(48)
    ]
    filled_in = {
        "head_dim": 256,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "layer_types": layers,
    }
    return GEMMA_3 | filled_in | changes
