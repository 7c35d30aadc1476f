"""Weights of the encoders beside a language model: vision and audio towers."""

import math
from collections.abc import Mapping
from typing import Any

from kvarn.planner.config_file import ConfigView

TOWERS = ("vision_config", "audio_config", "vision_tower_config", "speech_config")
CHANNELS = 3
LARGEST_IMAGE_TOKENS = 16384
"""Of encoders that take images of any size (Qwen-VL's `max_pixels`)."""


def tower_parameters(config: Mapping[str, Any], hidden: int) -> int:
    """Numbers of weights in all towers of a model whose hidden size is `hidden`."""
    return sum(
        _tower(ConfigView(config[key]), hidden)
        for key in TOWERS
        if isinstance(config.get(key), dict) and config[key]
    )


def _tower(view: ConfigView, hidden: int) -> int:
    layers = view.count("depth", "num_hidden_layers", "vt_num_hidden_layers", "encoder_layers")
    width = view.count("embed_dim", "vt_hidden_size", "hidden_size", "d_model")
    inner = view.count("vt_intermediate_size", "intermediate_size", "encoder_ffn_dim")
    inner = inner or int(width * view.number("mlp_ratio", default=4))
    matrices = 3 if view.word("hidden_act") == "silu" else 2
    layer = 4 * width * width + matrices * width * inner
    return layers * layer + CHANNELS * _patch(view) * width + _projector(view, width, hidden)


def _patch(view: ConfigView) -> int:
    """Pixels of a patch: `patch_size` is a side, or both."""
    sides = view.sequence("patch_size")
    if sides and all(type(side) is int and side > 0 for side in sides):
        return math.prod(sides)
    return view.count("patch_size") ** 2


def _projector(view: ConfigView, width: int, hidden: int) -> int:
    """Two matrices that bring merged patches to the language model's width."""
    merged = width * view.integer("spatial_merge_size", default=1) ** 2
    deep = 1 + len(view.sequence("deepstack_visual_indexes"))
    return deep * (merged * merged + merged * hidden)


def encoder_bytes(config: Mapping[str, Any]) -> int:
    """Peak of an encoder that takes images of any size, for the largest one, in 16 bits.

    At the peak a layer holds two copies of the MLP's width and nine of the hidden states.
    """
    view = ConfigView(ConfigView(config).mapping("vision_config"))
    merge = view.count("spatial_merge_size")
    patches = LARGEST_IMAGE_TOKENS * merge * merge
    width = view.count("embed_dim", "hidden_size")
    inner = view.count("intermediate_size") or 4 * width
    return patches * 2 * (2 * inner + 9 * width)
