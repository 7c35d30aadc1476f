"""Which models are not planned for, because their config does not say what they keep or weigh."""

from collections.abc import Mapping
from typing import Any, NoReturn

from kvarn.planner.config_file import ConfigView
from kvarn.planner.errors import ShapeError
from kvarn.planner.families import FAMILIES

KINDS = "state layerKinds in the shape, or leave the context to vLLM with --max-model-len auto"
SHAPE = "state the shape by hand"

_KEYS = {
    "compress_ratios": ("CompressedAttention", "compresses its cache along the context"),
    "compress_rates": ("CompressedAttention", "compresses its cache along the context"),
    "cross_attention_layers": ("CrossAttention", "attends to an encoder, which vLLM does not run"),
    "layer_group_size": ("UnknownLayer", "attends linearly in most layers"),
    "interleaved_sliding_window": ("UnknownLayer", "has a list of windows of its own"),
    "window_sizes": ("UnknownLayer", "has a list of windows of its own"),
    "loop_num": ("RepeatedLayers", "runs its layers more than once for each token"),
    "n_recurrent_loops": ("RepeatedLayers", "runs its layers more than once for each token"),
}
"""Keys that tell why a cache is not counted."""
_TYPES = {
    "ernie4_5_vl_moe": ("UnevenExperts", "has experts of two widths in a layer"),
    "ernie4_5_vl_moe_text": ("UnevenExperts", "has experts of two widths in a layer"),
    "gemma3n_text": ("UnevenLayers", "has weights around its layers (AltUp and LAuReL)"),
    "hrm_text": ("RepeatedLayers", "runs its layers more than once for each token"),
    "jetmoe": ("UnevenExperts", "has experts in its attention"),
    "phi4_multimodal": ("UnknownEncoder", "has encoders and adapters that its config leaves out"),
    "phi4mm": ("UnknownEncoder", "has encoders and adapters that its config leaves out"),
}
"""Model types whose keys read like those of others."""
_RECURRENT = ("mamba_", "conv_", "ssm_", "attn_layer_")
"""How keys begin that describe layers which keep a state."""
_NEEDED = (
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "num_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("intermediate_size", "ffn_hidden_size", "n_inner", "moe_intermediate_size", "block_configs"),
)
"""Keys by which a model of any type says how large it is."""
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act")
_GATED = ("silu", "swish", "swiglu", "swigluoai")
"""Activations that stand for an MLP with a gate."""


def refuse(text: Mapping[str, Any]) -> None:
    """Say which models are not planned for, and why.

    Args:
        text: what the config says of the language model.

    Raises:
        ShapeError: it is one of them.
    """
    view = ConfigView(text)
    kind = view.word("model_type")
    for key, (reason, what) in _KEYS.items():
        if text.get(key):
            _unplanned(reason, f"{kind} {what}", KINDS)
    if kind in _TYPES:
        reason, what = _TYPES[kind]
        _unplanned(reason, f"{kind} {what}", SHAPE)
    if kind not in FAMILIES:
        _refuse_unlisted(view, text, kind or "A model without model_type")


def _refuse_unlisted(view: ConfigView, text: Mapping[str, Any], kind: str) -> None:
    """Refuse a type that is not described, where its keys are not those of a plain model."""
    if "auto_map" in view and "num_attention_heads" not in view:
        raise ShapeError(
            "RemoteCode",
            f"{kind} brings code of its own, and its config does not say what it computes; state"
            " the shape by hand, or use a model that vLLM has built in.",
        )
    if "kv_lora_rank" in view:
        _unplanned("UnknownCache", f"{kind} may keep a latent vector, or keys and values", KINDS)
    recurrent = [key for key in text if key.startswith(_RECURRENT) and key in view]
    if recurrent:
        _unplanned("UnknownLayer", f"{kind} has layers with a state ({recurrent[0]})", KINDS)
    for names in _NEEDED:
        if not any(name in view for name in names):
            _unplanned("UnknownModel", f"{kind}, whose config lacks {names[0]},", SHAPE)
    activation = view.word(*_ACTIVATIONS)
    if activation not in _GATED:
        found = f"its activation is {activation!r}" if activation else f"no {_ACTIVATIONS[0]}"
        _unplanned("UnknownMlp", f"{kind} may have an MLP without a gate ({found})", SHAPE)


def _unplanned(reason: str, what: str, remedy: str) -> NoReturn:
    comma = "" if what.endswith(",") else ", and"
    raise ShapeError(reason, f"{what}{comma} is not planned for; {remedy}.")
