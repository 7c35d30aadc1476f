"""Counting a model's weights from its config."""

from dataclasses import dataclass

from kvarn.planner.config_file import ConfigView
from kvarn.planner.families import EXPERT_KEYS, Family


@dataclass(frozen=True, slots=True)
class Parameters:
    """Numbers of weights.

    Attributes:
        matrices: in the layers' matrices, which quantisation shrinks.
        others: in embeddings, output head, norms, biases and routers.
    """

    matrices: int
    others: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """The sizes that all matrices are made of."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    experts: int

    @property
    def attention(self) -> int:
        """Numbers in the query, key, value and output matrices of a layer."""
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)


def count_parameters(view: ConfigView, family: Family, widths: Widths, *, tied: bool) -> Parameters:
    """All weights of the model."""
    layers = view.integer("num_hidden_layers")
    vocabulary = view.integer("vocab_size") * widths.hidden
    mlp = (3 if family.gated else 2) * widths.hidden * widths.intermediate * max(widths.experts, 1)
    router = widths.hidden * widths.experts
    small = _norms(family, widths) + _biases(view, family, widths) + router
    final_norm = widths.hidden * (2 if family.norm_bias else 1)
    head_bias = view.integer("vocab_size") if family.out_bias and not tied else 0
    return Parameters(
        matrices=layers * (widths.attention + mlp),
        others=layers * small + final_norm + head_bias + vocabulary * (1 if tied else 2),
    )


def experts(view: ConfigView) -> int:
    """How many experts each layer has; 0 for a dense model."""
    return max((view.integer(key, default=0) for key in EXPERT_KEYS), default=0)


def _norms(family: Family, widths: Widths) -> int:
    block = family.norms * widths.hidden * (2 if family.norm_bias else 1)
    return block + (2 * widths.head_dim if family.qk_norm else 0)


def _biases(view: ConfigView, family: Family, widths: Widths) -> int:
    count = 0
    if view.flag("attention_bias", default=view.flag("use_bias", default=family.qkv_bias)):
        count += (widths.heads + 2 * widths.kv_heads) * widths.head_dim
    if view.flag("attention_bias", default=view.flag("use_bias", default=family.out_bias)):
        count += widths.hidden
    if view.flag("mlp_bias", default=view.flag("use_bias", default=family.mlp_bias)):
        count += widths.intermediate * (2 if family.gated else 1) + widths.hidden
    return count
