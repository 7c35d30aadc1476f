"""Counting a model's weights from its config, by the part of the model that they belong to."""

from collections import Counter
from dataclasses import dataclass, field

from kvarn.planner import layers
from kvarn.planner.attention import heads, mamba_groups, mamba_width, recurrence
from kvarn.planner.config_file import ConfigView
from kvarn.planner.families import Family
from kvarn.planner.feedforward import Feedforward, feedforwards

ATTENTION, MLP, EXPERTS, SHARED, HEAD = "attention", "mlp", "experts", "shared", "head"


@dataclass(slots=True)
class Parameters:
    """Numbers of weights.

    Attributes:
        matrices: in the layers' matrices, which quantisation shrinks, by part: `attention`, which
            counts recurrent mixers too, `mlp`, `experts`, `shared` and `head`, the output layer.
        others: in embeddings, norms, biases and routers.
        absorbed: copies of matrices that vLLM makes when it loads latent attention.
        head: in the output layer, whether or not it is the embedding too.
        expert_width: width of one expert, which some kernels fill up.
    """

    matrices: Counter[str] = field(default_factory=Counter)
    others: int = 0
    absorbed: int = 0
    head: int = 0
    expert_width: int = 0


def count_parameters(
    view: ConfigView, family: Family, mixers: tuple[str, ...], *, tied: bool
) -> Parameters:
    """All weights of the language model."""
    hidden = view.integer("hidden_size", "n_embd")
    vocabulary = view.integer("vocab_size", "padded_vocab_size")
    final_norm = hidden * (2 if family.norm_bias else 1)
    head_bias = vocabulary if family.norm_bias and family.out_bias and not tied else 0
    head = vocabulary * hidden
    found = Parameters(others=head + final_norm + head_bias, head=head)
    found.matrices[HEAD] = 0 if tied else head
    for mixer, count in Counter(mixers).items():
        _add_mixer(found, view, family, mixer, count)
    for feedforward in feedforwards(view, len(mixers)):
        _add_feedforward(found, hidden, family, feedforward)
    found.others += len(mixers) * family.norms * hidden * (2 if family.norm_bias else 1)
    found.others += _layer_embeddings(view, hidden, len(mixers))
    return found


def _layer_embeddings(view: ConfigView, hidden: int, count: int) -> int:
    """Embeddings that each layer has of its own, and the matrices around them (Gemma 3n and 4)."""
    width = view.count("hidden_size_per_layer_input")
    rows = view.count("vocab_size_per_layer_input")
    return count * width * (rows + 3 * hidden)


def _add_mixer(found: Parameters, view: ConfigView, family: Family, mixer: str, count: int) -> None:
    hidden = view.integer("hidden_size", "n_embd")
    if mixer == layers.NONE:
        return
    if mixer == layers.LATENT or family.plain_latent:
        matrices, absorbed = _latent(view, hidden)
        found.matrices[ATTENTION] += count * matrices
        found.absorbed += 0 if family.plain_latent else count * absorbed
    elif mixer in layers.RECURRENT:
        found.matrices[ATTENTION] += count * _recurrent(view, mixer, hidden)
    else:
        found.matrices[ATTENTION] += count * _attention(view, family, mixer, hidden)
        found.others += count * _attention_biases(view, family, mixer, hidden)


def _attention(view: ConfigView, family: Family, mixer: str, hidden: int) -> int:
    """Numbers in the query, key, value and output matrices of a layer."""
    widths = heads(view, mixer)
    queries = widths.queries * widths.key_dim
    gate = queries if family.gated_attention else 0
    equal = view.flag("attention_k_eq_v") and mixer == layers.FULL
    values = 0 if equal else widths.keys * widths.value_dim
    keys = widths.keys * widths.key_dim
    return hidden * (queries + gate + keys + values + widths.queries * widths.value_dim)


def _attention_biases(view: ConfigView, family: Family, mixer: str, hidden: int) -> int:
    widths = heads(view, mixer)
    count = widths.key_dim * 2 if family.qk_norm else 0
    inner = _has_bias(view, "add_qkv_bias", default=family.qkv_bias)
    outer = _has_bias(view, "add_bias_linear", default=family.out_bias)
    if inner:
        count += widths.queries * widths.key_dim + widths.keys * (widths.key_dim + widths.value_dim)
    return count + (hidden if outer else 0)


def _has_bias(view: ConfigView, key: str, *, default: bool) -> bool:
    return view.flag(
        "attention_bias", default=view.flag(key, default=view.flag("use_bias", default=default))
    )


def _latent(view: ConfigView, hidden: int) -> tuple[int, int]:
    """Numbers in the matrices of latent attention, and in those of them that vLLM copies."""
    queries = view.integer("num_attention_heads")
    nope, rope = view.integer("qk_nope_head_dim"), view.integer("qk_rope_head_dim")
    values = view.integer("v_head_dim", default=nope)
    rank = view.integer("kv_lora_rank")
    compressed = view.count("q_lora_rank")
    query = queries * (nope + rope)
    down = hidden * compressed + compressed * query if compressed else hidden * query
    up = rank * queries * (nope + values)
    out = queries * values * hidden * (2 if view.flag("mla_use_output_gate") else 1)
    return down + hidden * (rank + rope) + up + out + _index(view, hidden, compressed), up


def _index(view: ConfigView, hidden: int, compressed: int) -> int:
    """Numbers in the matrices by which sparse attention chooses tokens."""
    if "index_topk" not in view:
        return 0
    count, width = view.integer("index_n_heads"), view.integer("index_head_dim")
    return compressed * count * width + hidden * (width + count)


def _recurrent(view: ConfigView, mixer: str, hidden: int) -> int:
    """Numbers in the matrices of a recurrent mixer, its convolution included."""
    state = recurrence(view, mixer)
    convolution = state.channels * state.taps
    if mixer == layers.MAMBA:
        inner = mamba_width(view)
        inputs = 2 * inner + 2 * mamba_groups(view)
        count = view.integer("mamba_num_heads", "mamba_n_heads")
        return hidden * (inputs + count) + inner * hidden + convolution + inner
    if mixer == layers.KIMI:
        linear = ConfigView(view.mapping("linear_attn_config"))
        width = linear.integer("num_heads") * linear.integer("head_dim")
        low = linear.integer("head_dim") * (hidden + width)
        gate = hidden * width if linear.flag("use_full_rank_gate") else low
        return 4 * hidden * width + low + gate + hidden * linear.integer("num_heads") + convolution
    count = view.integer("linear_num_value_heads")
    values = count * view.integer("linear_value_head_dim")
    return hidden * (state.channels + 2 * values + 2 * count) + convolution


def _add_feedforward(found: Parameters, hidden: int, family: Family, part: Feedforward) -> None:
    matrices = 3 if family.gated else 2
    found.matrices[MLP] += part.layers * matrices * hidden * part.dense
    found.matrices[SHARED] += part.layers * matrices * hidden * part.shared
    inner = part.latent or hidden
    found.matrices[EXPERTS] += part.layers * part.experts * matrices * inner * part.expert_width
    found.matrices[SHARED] += part.layers * 2 * hidden * part.latent
    found.others += part.layers * hidden * part.experts
    found.expert_width = max(found.expert_width, part.expert_width)
    if family.mlp_bias:
        found.others += part.layers * (part.dense * (matrices - 1) + hidden)
    if family.expert_bias:
        found.others += part.layers * part.experts * (2 * part.expert_width + hidden + 1)
