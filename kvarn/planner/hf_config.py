"""The model's shape from a Hugging Face `config.json`, and from the weights beside it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kvarn.planner import layers
from kvarn.planner.attention import Heads, by_reach, heads, kinds
from kvarn.planner.config_file import ConfigView, load_config
from kvarn.planner.errors import ShapeError
from kvarn.planner.families import FAMILIES, PLAIN, Family
from kvarn.planner.feedforward import active_width, chosen_experts, experts, feedforwards
from kvarn.planner.layer_kind import LayerKind
from kvarn.planner.mlp import Mlp, dense
from kvarn.planner.parameters import EXPERTS, MLP, SHARED
from kvarn.planner.quantization import PLAIN_BITS, WeightFormat, method, weight_format
from kvarn.planner.safetensors import folder_weight_bytes
from kvarn.planner.shape import DTYPE_BYTES, ModelShape
from kvarn.planner.towers import TOWERS, encoder_bytes
from kvarn.planner.unplanned import refuse
from kvarn.planner.weights import Description, computed_weights

LENGTH_KEY = "model_max_length"
"""What goes before all of `POSITION_KEYS` (Command-R)."""
POSITION_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""Of which the least counts."""
PRESCALED_ROPES = (
    "su",
    "longrope",
    "llama3",
    "yarn",
    "deepseek_yarn",
    "deepseek_llama_scaling",
)
"""RoPE variants with the factor in `max_position_embeddings` already (`vllm/config/model.py`)."""
PRESCALED_TYPE = "gemma3"
"""Part of the model types that have it there with any RoPE."""
MUTUAL_IMAGES = ("bagel", "gemma3", "molmo2", "moondream3", "paligemma")
"""Models in which the tokens of an image attend to each other both ways."""
QUANTIZATION_FILE = "hf_quant_config.json"
"""Where NVIDIA's tools keep the quantisation."""
WRAPPED = ("text_config", "language_config", "llm_config")
"""Where a model of several parts keeps the language model's config."""
LOADED = "thinker_config"
"""Where a model that speaks too (Qwen-Omni) keeps the config of the part that vLLM loads."""
INHERITED = ("dtype", "torch_dtype", "quantization_config", "compression_config")
"""Keys of the whole that hold for the language model in it."""


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
        return shape_from_config(load_config(path), name=_model_name(path))
    config = folder_config(path)
    measured = folder_weight_bytes(path, computing_dtype(config), config)
    return shape_from_config(config, name=path.name, weight_bytes=measured)


def _model_name(path: Path) -> str:
    """The model's name: its folder's, or its file's where a file stands for a model."""
    return path.parent.name if path.name == "config.json" else path.stem


def folder_config(folder: Path) -> dict[str, Any]:
    """The folder's config, with the quantisation that NVIDIA's tools keep in a file of its own."""
    config = load_config(folder / "config.json")
    apart = folder / QUANTIZATION_FILE
    if "quantization_config" not in config and apart.is_file():
        stated = load_config(apart)
        inner = ConfigView(stated).mapping("quantization") or stated
        config["quantization_config"] = {"quant_method": "modelopt", **inner}
    return config


def shape_from_config(
    config: Mapping[str, Any], *, name: str = "", weight_bytes: int | None = None
) -> ModelShape:
    """The shape that `config` describes.

    Args:
        config: the object in a `config.json`.
        name: the model's, if known: see `weight_format`.
        weight_bytes: bytes of its weights, if they were measured.

    Raises:
        ShapeError: see `read_shape`.
    """
    config = _loaded(config)
    text, family = _language_model(config)
    view = ConfigView(text)
    refuse(text)
    mixers = layers.mixers(view, family, latent=_is_latent(view, family))
    text = by_reach(text, mixers)
    view = ConfigView(text)
    widths = heads(view)
    pooling = "embedding" in name.lower()
    tied = pooling or _tied(config, view, family)
    dtype = computing_dtype({**config, **text})
    model = Description(
        config=config,
        text=text,
        family=family,
        mixers=mixers,
        tied=tied,
        dtype_bytes=DTYPE_BYTES[dtype],
    )
    stored = _stored(model, name, measured=weight_bytes is not None)
    weights = computed_weights(model, stored)
    if weight_bytes is not None:
        weights = weights.measured(weight_bytes)
    return ModelShape(
        architecture=_architecture(config, view),
        layers=len(mixers),
        attention_heads=widths.queries,
        kv_heads=widths.keys,
        head_dim=widths.key_dim,
        hidden_size=view.integer("hidden_size", "n_embd"),
        intermediate_size=active_width(view),
        vocab_size=view.integer("vocab_size", "padded_vocab_size"),
        weight_bytes=weights.total_bytes,
        dtype=dtype,
        max_position_tokens=_position_tokens(view),
        tied_embeddings=tied,
        quantization=weights.quantization,
        attention_traits=_traits(config, view, family),
        expert_bytes=weights.expert_bytes,
        active_parameters=weights.active_parameters,
        experts=experts(view),
        experts_per_token=chosen_experts(view) if experts(view) else 0,
        mlps=_mlps(view, len(mixers), stored),
        multimodal=any(config.get(key) for key in TOWERS),
        encoder_bytes=encoder_bytes(config),
        pooling=pooling,
        **_cached(kinds(view, mixers), len(mixers), widths),
    )


def _loaded(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config without the parts that vLLM does not load."""
    inner = ConfigView(config).mapping(LOADED)
    return {**config, **{key: value for key, value in inner.items() if value is not None}}


def _language_model(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], Family]:
    """The part of a config that describes the language model, and its family."""
    inner = ConfigView(config).mapping(*WRAPPED)
    if not inner:
        return config, FAMILIES.get(_model_type(config), PLAIN)
    kind = str(inner.get("model_type") or config.get("model_type") or "")
    family = FAMILIES.get(kind, PLAIN)
    outer = {key: config[key] for key in INHERITED if config.get(key) is not None}
    present = {key: value for key, value in inner.items() if value is not None}
    return {**family.defaults, **outer, **present, "model_type": kind}, family


def _model_type(config: Mapping[str, Any]) -> str:
    kind = str(config.get("model_type") or "")
    if not kind and not config.get("architectures"):
        raise ShapeError(
            "InvalidConfig", "The model's config lacks model_type; give the whole config.json."
        )
    return kind


def _is_latent(view: ConfigView, family: Family) -> bool:
    return "kv_lora_rank" in view and not family.plain_latent


def _traits(config: Mapping[str, Any], view: ConfigView, family: Family) -> tuple[str, ...]:
    """What attention needs; with images, as `is_mm_prefix_lm` of vLLM finds it out."""
    known = ConfigView(config).word("model_type") in MUTUAL_IMAGES
    mutual = ConfigView(config).flag("is_mm_prefix_lm", default=known)
    both_ways = view.word("use_bidirectional_attention") == "vision"
    biased = ("alibi",) if view.flag("alibi") else ()
    images = ("images",) if mutual or both_ways else ()
    return (*family.traits, *biased, *images)


def _tied(config: Mapping[str, Any], view: ConfigView, family: Family) -> bool:
    """Whether the output is the embedding; not if the whole or its language model denies it.

    Saving fills in what the other does not say, and vLLM loads an output layer that the files have.
    """
    key = "tie_word_embeddings"
    stated = [part.flag(key) for part in (ConfigView(config), view) if key in part]
    return all(stated) if stated else family.tied


def _architecture(config: Mapping[str, Any], view: ConfigView) -> str:
    named = ConfigView(config).sequence("architectures")
    return str(next(iter(named), view.word("model_type")))


def _stored(model: Description, name: str, *, measured: bool) -> WeightFormat:
    """How the layers' matrices are stored; where they were measured, that may be unknown."""
    config = {**model.config, **model.text}
    try:
        return weight_format(config, layers=len(model.mixers), name=name)
    except ShapeError:
        if not measured:
            raise
        return WeightFormat(method(config), PLAIN_BITS)


def _mlps(view: ConfigView, count: int, stored: WeightFormat) -> tuple[Mlp, ...]:
    """MLPs by width, unless the shape's other fields say them."""
    if not experts(view):
        plain = dense(active_width(view), stored.name)
        known = replace(plain, group=stored.group_of(MLP))
        return () if known == plain else (known,)
    # Where no list says what is kept in 16 bits, an MLP beside experts may be, as shared ones may.
    widths = (
        (kind, width, part)
        for each in feedforwards(view, count)
        for kind, width, part in (
            ("dense", each.dense, SHARED),
            ("shared", each.shared, SHARED),
            ("routed", each.expert_width, EXPERTS),
        )
    )
    found = (
        Mlp(kind=kind, width=width, group=stored.group_of(part))
        for kind, width, part in widths
        if width
    )
    return tuple(dict.fromkeys(found))


def _cached(found: tuple[LayerKind, ...], count: int, widths: Heads) -> dict[str, Any]:
    """Fields of a shape that say what its layers keep, in the plainest words that do."""
    usual = (widths.keys, widths.key_dim, 0)
    plain = all(
        kind.kind in ("full", "window") and (kind.kv_heads, kind.head_dim, kind.value_dim) == usual
        for kind in found
    )
    if not plain or sum(kind.layers for kind in found) < count:
        return {"layer_kinds": found}
    windows = [kind for kind in found if kind.kind == "window"]
    return {
        "sliding_window_tokens": sum(kind.window_tokens for kind in windows),
        "sliding_layers": sum(kind.layers for kind in windows),
    }


def computing_dtype(config: Mapping[str, Any]) -> str:
    """What vLLM computes in: the config's type, float32 lowered (`_resolve_auto_dtype`)."""
    config = _loaded(config)
    inner = ConfigView(ConfigView(config).mapping(*WRAPPED))
    dtype = ConfigView(config).word("dtype", "torch_dtype") or inner.word("dtype", "torch_dtype")
    dtype = dtype.removeprefix("torch.")
    return dtype if dtype in DTYPE_BYTES and dtype != "float32" else "bfloat16"


def _position_tokens(view: ConfigView) -> int:
    """The longest context that vLLM takes (`_get_and_verify_max_len`)."""
    if LENGTH_KEY in view:
        tokens = view.integer(LENGTH_KEY)
    else:
        first = view.integer(*POSITION_KEYS)
        tokens = min(view.integer(key, default=first) for key in POSITION_KEYS)
    return tokens if PRESCALED_TYPE in view.word("model_type") else int(tokens * _rope_factor(view))


def _rope_factor(view: ConfigView) -> float:
    """How many times RoPE lengthens the context, by the last of the layers' kinds that says so."""
    stated = view.mapping("rope_scaling") or view.mapping("rope_parameters")
    by_kind = stated.values() if "layer_types" in view else ()
    factor = 1.0
    for rope in (stated, *by_kind):
        part = ConfigView(rope if isinstance(rope, dict) else {})
        if part.word("rope_type", "type") not in PRESCALED_ROPES:
            factor = part.number("factor", default=factor)
    return factor
