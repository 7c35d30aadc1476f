"""Layers with one kind of cache: the widths of their mixers, read from the config."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvarn.planner import layers
from kvarn.planner.config_file import ConfigView
from kvarn.planner.errors import ShapeError
from kvarn.planner.layer_kind import LayerKind

INDEX_BLOCK = 128
"""Numbers of a sparse-attention index that share one 4-byte scale (DeepSeek V3.2)."""
KV_HEAD_KEYS = ("n_head_kv", "num_kv_heads", "num_key_value_heads", "num_attention_groups")
BY_REACH = {
    layers.FULL: {
        "head_dim": "global_head_dim",
        "num_key_value_heads": "num_global_key_value_heads",
    },
    layers.WINDOW: {
        "head_dim": "swa_head_dim",
        "num_attention_heads": "swa_num_attention_heads",
        "num_key_value_heads": "swa_num_key_value_heads",
    },
}
"""Widths that attention of one reach may have of its own, and the keys that state them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Widths of an attention layer.

    Attributes:
        queries: query heads.
        keys: KV heads.
        key_dim: numbers of a query and of a key.
        value_dim: numbers of a value.
    """

    queries: int
    keys: int
    key_dim: int
    value_dim: int


def heads(view: ConfigView, mixer: str = layers.FULL) -> Heads:
    """The widths of attention of one reach, where the config tells them apart."""
    queries = view.integer("num_attention_heads", "n_head")
    keys = _kv_heads(view, queries)
    hidden = view.integer("hidden_size", "n_embd")
    if "qk_nope_head_dim" in view and "qk_rope_head_dim" in view:
        width = view.integer("qk_nope_head_dim") + view.integer("qk_rope_head_dim")
        return Heads(queries=queries, keys=queries, key_dim=width, value_dim=width)
    width = view.integer("head_dim", "attention_head_dim", "kv_channels", default=hidden // queries)
    if mixer == layers.WINDOW:
        queries = view.integer("swa_num_attention_heads", default=queries)
        keys = view.integer("swa_num_key_value_heads", default=keys)
        width = view.integer("swa_head_dim", default=width)
        value = view.integer("swa_v_head_dim", default=width)
    else:
        keys = view.integer("num_global_key_value_heads", default=keys)
        width = view.integer("global_head_dim", default=width)
        value = view.integer("v_head_dim", default=width)
    return Heads(queries=queries, keys=keys, key_dim=width, value_dim=value)


def by_reach(text: Mapping[str, Any], mixers: tuple[str, ...]) -> dict[str, Any]:
    """A config whose `per_layer_config` (transformers 5) is said by the keys of `BY_REACH`.

    Raises:
        ShapeError: layers of one reach differ, or in more than `BY_REACH` has.
    """
    stated = ConfigView(text).mapping("per_layer_config")
    own = {str(layer).lstrip("0") or "0": changes for layer, changes in stated.items()}
    widths: dict[str, Any] = {}
    for reach in sorted(set(mixers)):
        here = [own.get(str(layer)) or {} for layer, mixer in enumerate(mixers) if mixer == reach]
        names, first = BY_REACH.get(reach, {}), here[0]
        alike = isinstance(first, dict) and all(changes == first for changes in here)
        if not alike or not set(first) <= set(names):
            raise ShapeError(
                "LayersDiffer",
                f"per_layer_config in the model's config makes {reach} layers differ in a way that"
                " is not planned for; state layerKinds in the shape.",
            )
        widths |= {names[key]: first[key] for key in first}
    return {**text, **widths}


def _kv_heads(view: ConfigView, queries: int) -> int:
    """KV heads; as many as query heads where the config says nothing."""
    if view.flag("multi_query_attention"):
        return view.integer("multi_query_group_num")
    for block in layers.blocks(view):
        if group := block.part("attention").count("n_heads_in_group"):
            return max(queries // group, 1)
    if view.flag("multi_query") and not view.flag("new_decoder_architecture"):
        return 1
    return view.integer(*KV_HEAD_KEYS, default=queries)


def kinds(view: ConfigView, mixers: tuple[str, ...]) -> tuple[LayerKind, ...]:
    """Layers by the cache that they keep; those that share another's cache are left out."""
    shared = view.count("num_kv_shared_layers")
    counts = Counter(mixer for mixer in mixers[: len(mixers) - shared] if mixer != layers.NONE)
    found = [_kind(view, mixer, count) for mixer, count in counts.items()]
    return (*found, *_indexes(view, mixers))


def _kind(view: ConfigView, mixer: str, count: int) -> LayerKind:
    if mixer in layers.RECURRENT:
        state = recurrence(view, mixer)
        return LayerKind(kind="state", layers=count, state_bytes=state.bytes)
    if mixer == layers.LATENT:
        width = view.integer("kv_lora_rank") + view.count("qk_rope_head_dim")
        return LayerKind(kind=mixer, layers=count, kv_heads=1, head_dim=width)
    widths = heads(view, mixer)
    window = {
        layers.WINDOW: view.count("sliding_window", "sliding_window_size"),
        layers.CHUNK: view.count("attention_chunk_size"),
    }.get(mixer, 0)
    return LayerKind(
        kind=mixer,
        layers=count,
        kv_heads=widths.keys,
        head_dim=widths.key_dim,
        value_dim=widths.value_dim if widths.value_dim != widths.key_dim else 0,
        window_tokens=window,
    )


def _indexes(view: ConfigView, mixers: tuple[str, ...]) -> tuple[LayerKind, ...]:
    """The keys by which sparse attention chooses tokens, in a cache of their own."""
    if "index_topk" in view:
        width = view.integer("index_head_dim")
        kept = view.sequence("indexer_types")
        count = sum(kind == "full" for kind in kept) if kept else len(mixers)
        token_bytes = width + 4 * width // INDEX_BLOCK
        return (LayerKind(kind="index", layers=count, token_bytes=token_bytes),)
    sparse = view.part("sparse_attention_config")
    if count := sum(map(bool, sparse.sequence("sparse_attention_freq"))):
        width = sparse.integer("sparse_index_dim")
        return (LayerKind(kind="index", layers=count, token_bytes=2 * width),)
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """What a recurrent layer keeps of a sequence.

    Attributes:
        channels: channels of its convolution.
        taps: the convolution's width.
        state: numbers in the recurrent state.
        state_number_bytes: bytes of each of them.
    """

    channels: int
    taps: int
    state: int
    state_number_bytes: int

    @property
    def bytes(self) -> int:
        """Bytes of one sequence in one layer, over all devices; the convolution is in 16 bits."""
        return 2 * self.channels * (self.taps - 1) + self.state * self.state_number_bytes


def recurrence(view: ConfigView, mixer: str) -> Recurrence:
    """The state of a recurrent layer (`MambaStateShapeCalculator` of vLLM)."""
    if mixer == layers.MAMBA:
        return _mamba(view)
    if mixer == layers.KIMI:
        return _kimi(view.part("linear_attn_config"))
    keys = view.integer("linear_num_key_heads") * view.integer("linear_key_head_dim")
    values = view.integer("linear_num_value_heads") * view.integer("linear_value_head_dim")
    return Recurrence(
        channels=2 * keys + values,
        taps=view.integer("linear_conv_kernel_dim", default=4),
        state=values * view.integer("linear_key_head_dim"),
        state_number_bytes=_number_bytes(view, "mamba_ssm_dtype", default="float32"),
    )


def mamba_width(view: ConfigView) -> int:
    """Channels inside a Mamba layer."""
    count = view.integer("mamba_num_heads", "mamba_n_heads")
    return count * view.integer("mamba_head_dim", "mamba_d_head")


def mamba_groups(view: ConfigView) -> int:
    """Numbers in the input and output matrices that the heads of a group share."""
    groups = view.integer("n_groups", "mamba_n_groups", default=1)
    return groups * view.integer("ssm_state_size", "mamba_d_state")


def _mamba(view: ConfigView) -> Recurrence:
    inner = mamba_width(view)
    return Recurrence(
        channels=inner + 2 * mamba_groups(view),
        taps=view.integer("conv_kernel", "mamba_d_conv", default=4),
        state=inner * view.integer("ssm_state_size", "mamba_d_state"),
        state_number_bytes=_number_bytes(view, "mamba_ssm_cache_dtype", default="float32")
        if view.word("model_type") == "nemotron_h"
        else 2,
    )


def _kimi(linear: ConfigView) -> Recurrence:
    count, width = linear.integer("num_heads"), linear.integer("head_dim")
    return Recurrence(
        channels=3 * count * width,
        taps=linear.integer("short_conv_kernel_size", default=4),
        state=count * width * width,
        state_number_bytes=4,
    )


def _number_bytes(view: ConfigView, key: str, *, default: str) -> int:
    return 4 if (view.word(key) or default) == "float32" else 2
