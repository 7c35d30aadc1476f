"""The model's shape from a Hugging Face `config.json`, and from the weights beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvarn.planner.config_file import ConfigView, load_config
from kvarn.planner.errors import ShapeError
from kvarn.planner.families import FAMILIES, Family
from kvarn.planner.parameters import Widths, count_parameters, experts
from kvarn.planner.quantization import weight_format
from kvarn.planner.safetensors import folder_weight_bytes
from kvarn.planner.shape import DTYPE_BYTES, ModelShape

POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
PRESCALED_ROPES = ("su", "longrope", "llama3", "yarn", "default", "")
"""RoPE variants with the factor in `max_position_embeddings` already (`vllm/config/model.py`)."""


def read_shape(source: str | Path | Mapping[str, Any]) -> ModelShape:
    """The shape of a model in a folder, in a `config.json`, or given as that file's object.

    A folder's weights are measured in its safetensors files, if it has them.

    Raises:
        ShapeError: the source cannot be read, or the model is not one that can be planned for.
    """
    if isinstance(source, Mapping):
        return shape_from_config(source)
    path = Path(source)
    if not path.is_dir():
        return shape_from_config(load_config(path))
    config = _folder_config(path)
    return shape_from_config(
        config, weight_bytes=folder_weight_bytes(path, computing_dtype(config))
    )


def _folder_config(folder: Path) -> dict[str, Any]:
    """The folder's config, with the quantisation that NVIDIA's tools keep in a file of its own."""
    config = load_config(folder / "config.json")
    apart = folder / "hf_quant_config.json"
    if "quantization_config" not in config and apart.is_file():
        config["quantization_config"] = {"quant_method": "modelopt", **load_config(apart)}
    return config


def shape_from_config(config: Mapping[str, Any], *, weight_bytes: int | None = None) -> ModelShape:
    """The shape that `config` describes, with `weight_bytes` if they are known.

    Raises:
        ShapeError: see `read_shape`.
    """
    family = _family(config)
    view = ConfigView(config)
    dtype = computing_dtype(config)
    widths = _widths(view)
    tied = view.flag("tie_word_embeddings", default=family.tied)
    layers = view.integer("num_hidden_layers")
    stored = _format_name(config)
    return ModelShape(
        architecture=str(next(iter(view.sequence("architectures")), view.word("model_type"))),
        layers=layers,
        attention_heads=widths.heads,
        kv_heads=widths.kv_heads,
        head_dim=widths.head_dim,
        hidden_size=widths.hidden,
        intermediate_size=widths.intermediate * view.integer("num_experts_per_tok", default=1),
        vocab_size=view.integer("vocab_size"),
        weight_bytes=weight_bytes or _computed_bytes(config, family, widths, tied=tied),
        dtype=dtype,
        max_position_tokens=_position_tokens(view),
        tied_embeddings=tied,
        quantization=stored,
        **_sliding(view, family, layers),
        attention_traits=family.traits,
    )


def _family(config: Mapping[str, Any]) -> Family:
    kind = str(config.get("model_type", ""))
    if not kind:
        raise ShapeError(
            "InvalidConfig", "The model's config lacks model_type; give the whole config.json."
        )
    if family := FAMILIES.get(kind):
        return family
    reason, what = next(
        (why for key, why in _UNPLANNED.items() if config.get(key)),
        ("UnknownArchitecture", "is a kind of model that nobody has described"),
    )
    raise ShapeError(
        reason,
        f"{kind} {what}, and is not planned for; use a model of type {', '.join(FAMILIES)}, or"
        " state the shape by hand if all its layers are alike.",
    )


_UNPLANNED = {
    "vision_config": ("Multimodal", "has a vision tower"),
    "audio_config": ("Multimodal", "has an audio tower"),
    "text_config": ("Multimodal", "wraps a text model"),
    "qk_rope_head_dim": ("LatentAttention", "uses latent attention"),
    "mamba_num_heads": ("StateSpaceLayers", "has state-space layers"),
    "state_size": ("StateSpaceLayers", "has state-space layers"),
    "linear_num_value_heads": ("LinearAttention", "has linear attention"),
    "block_configs": ("UnequalLayers", "has layers of unequal shape"),
    "auto_map": ("RemoteCode", "brings code of its own"),
}
"""Keys that tell, in this order, why the weights and the cache are not counted here."""


def computing_dtype(config: Mapping[str, Any]) -> str:
    """What vLLM computes in: the config's type, float32 lowered (`_resolve_auto_dtype`)."""
    dtype = ConfigView(config).word("dtype", "torch_dtype").removeprefix("torch.")
    return dtype if dtype in DTYPE_BYTES and dtype != "float32" else "bfloat16"


def _widths(view: ConfigView) -> Widths:
    hidden, heads = view.integer("hidden_size"), view.integer("num_attention_heads")
    count = experts(view)
    inner = ("moe_intermediate_size", "intermediate_size") if count else ("intermediate_size",)
    return Widths(
        hidden=hidden,
        heads=heads,
        kv_heads=view.integer("num_key_value_heads", default=heads),
        head_dim=view.integer("head_dim", default=hidden // heads),
        intermediate=view.integer(*inner),
        experts=count,
    )


def _computed_bytes(
    config: Mapping[str, Any], family: Family, widths: Widths, *, tied: bool
) -> int:
    dtype_bytes = DTYPE_BYTES[computing_dtype(config)]
    parameters = count_parameters(ConfigView(config), family, widths, tied=tied)
    stored = weight_format(config, dtype_bytes)
    return round(parameters.matrices * stored.bits / 8) + parameters.others * dtype_bytes


def _format_name(config: Mapping[str, Any]) -> str:
    return ConfigView(ConfigView(config).mapping("quantization_config")).word("quant_method")


def _position_tokens(view: ConfigView) -> int:
    tokens = min(view.integer(key, default=view.integer(*POSITION_KEYS)) for key in POSITION_KEYS)
    rope = ConfigView(view.mapping("rope_scaling", "rope_parameters"))
    if rope.word("rope_type", "type") in PRESCALED_ROPES:
        return tokens
    return int(tokens * rope.number("factor", default=1.0))


def _sliding(view: ConfigView, family: Family, layers: int) -> dict[str, int]:
    """The window and how many layers it applies to, as vLLM's models read it."""
    window = view.integer("sliding_window", default=0)
    if not window or not view.flag("use_sliding_window", default=not family.window_opt_in):
        return {}
    if kinds := view.sequence("layer_types"):
        count = sum(kind == "sliding_attention" for kind in kinds)
    elif view.integer("max_window_layers", default=layers) < layers:
        count = layers - view.integer("max_window_layers")
    else:
        every = view.integer("sliding_window_pattern", default=family.sliding_every)
        count = layers if every == 1 else layers - layers // every
    return {"sliding_window_tokens": window, "sliding_layers": count} if count else {}
