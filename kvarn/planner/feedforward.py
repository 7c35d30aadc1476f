"""The second half of each layer: an MLP, experts, or both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kvarn.planner import layers
from kvarn.planner.config_file import ConfigView
from kvarn.planner.families import EXPERT_KEYS

EXPERT_WIDTH_KEYS = ("moe_intermediate_size", "expert_intermediate_size", "intermediate_size")
SHARED_KEYS = (
    "moe_shared_expert_intermediate_size",
    "shared_expert_intermediate_size",
    "share_expert_dim",
    "shared_intermediate_size",
)
CHOSEN_KEYS = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "top_k_experts",
    "moe_k",
    "moe_topk",
    "moe_top_k",
    "top_k",
)
"""Names of the experts that a token visits; the last also is a setting of sampling, so it is."""

_SPARSE = {"E", "moe"}
_DENSE = {"-", "mlp"}
"""Layers of their own that have experts, or an MLP, and mix no tokens (Nemotron-H)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedforward:
    """Layers whose second halves are alike.

    Attributes:
        layers: how many.
        dense: width of the MLP; 0 where there is none.
        experts: how many experts a layer has.
        expert_width: width of one.
        shared: width of the experts that every token visits, together.
        latent: width that experts work on, where it is not the hidden size.
    """

    layers: int
    dense: int = 0
    experts: int = 0
    expert_width: int = 0
    shared: int = 0
    latent: int = 0


def experts(view: ConfigView) -> int:
    """How many experts a layer has; 0 for a dense model."""
    if (own := _own_layers(view)) and not _SPARSE & set(own):
        return 0
    return max(view.count(key) for key in EXPERT_KEYS)


def chosen_experts(view: ConfigView) -> int:
    """How many of them a token visits."""
    return view.integer(*CHOSEN_KEYS)


def active_width(view: ConfigView) -> int:
    """Width of the MLP that runs on each token; of all its experts together.

    Raises:
        ShapeError: the config has neither.
    """
    if layers.blocks(view):
        return max(part.dense for part in _searched(view))
    if not experts(view):
        return _dense_width(view)
    return view.integer(*EXPERT_WIDTH_KEYS) * chosen_experts(view) + _shared_width(view)


def feedforwards(view: ConfigView, count: int) -> Iterator[Feedforward]:
    """The second halves of `count` layers, equal ones together."""
    if layers.blocks(view):
        yield from _searched(view)
        return
    sparse = sum(_is_sparse(view, layer) for layer in range(count)) if experts(view) else 0
    alone = sum(name not in _SPARSE | _DENSE for name in _own_layers(view))
    if sparse:
        yield _experts(view, sparse)
    if dense := count - sparse - alone:
        yield Feedforward(layers=dense, dense=_dense_width(view, beside=bool(sparse)))


def _searched(view: ConfigView) -> Iterator[Feedforward]:
    """Widths of a searched architecture: a multiple of the hidden size, rounded up to 256."""
    hidden = view.integer("hidden_size")
    for block in layers.blocks(view):
        if factor := block.part("ffn").number("ffn_mult", default=0.0):
            width = int(2 * factor * hidden / 3)
            yield Feedforward(layers=1, dense=-(-width // 256) * 256)


def _experts(view: ConfigView, count: int) -> Feedforward:
    both = view.flag("enable_moe_block")
    return Feedforward(
        layers=count,
        dense=_dense_width(view) if both else 0,
        experts=experts(view),
        expert_width=view.integer(*EXPERT_WIDTH_KEYS),
        shared=_shared_width(view),
        latent=view.count("moe_latent_size", "routed_expert_hidden_size"),
    )


def _shared_width(view: ConfigView) -> int:
    if view.word("model_type") == "llama4_text":
        return view.integer("intermediate_size")
    shared = view.count("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
    return view.count(*SHARED_KEYS) or shared * view.integer(*EXPERT_WIDTH_KEYS, default=0)


def _dense_width(view: ConfigView, *, beside: bool = False) -> int:
    """Width of the MLP, `beside` layers that have experts instead."""
    if beside:
        return view.integer("dense_intermediate_size", "intermediate_size_mlp", "intermediate_size")
    return view.integer(
        "shared_intermediate_size", "intermediate_size", "ffn_hidden_size", "n_inner"
    )


def _own_layers(view: ConfigView) -> Sequence[str]:
    """What each layer is, where mixers and MLPs are layers of their own (Nemotron-H)."""
    if letters := view.word("hybrid_override_pattern"):
        return letters
    names = tuple(map(str, view.sequence("layers_block_type")))
    return names if (_SPARSE | _DENSE) & set(names) else ()


def _is_sparse(view: ConfigView, layer: int) -> bool:
    """Whether layer `layer`, counted from 0, has experts."""
    if own := _own_layers(view):
        return own[layer] in _SPARSE
    if named := view.entry("mlp_layer_types", layer):
        return bool(named == "sparse")
    if (flag := view.entry("moe_layer_freq", layer)) is not None:
        return bool(flag)
    first = view.count("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
    last = view.integer("moe_layer_end_index", default=layer)
    if not first <= layer <= last or layer in view.sequence("mlp_only_layers"):
        return False
    step = view.integer(
        "decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval", default=1
    )
    return (layer + 1) % step == 0
