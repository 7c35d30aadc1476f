"""Families of language models: what a `model_type` implies beyond the keys of its config."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a `model_type` implies beyond the keys of its config.

    Attributes:
        norms: normalisation weights of hidden size in each layer.
        norm_bias: whether these have biases (LayerNorm instead of RMSNorm).
        gated: whether the MLP has a gate, and so three matrices instead of two.
        qkv_bias, out_bias, mlp_bias: biases, where the config does not say.
        qk_norm: whether queries and keys are normalised per head dimension.
        gated_attention: whether the query projection makes a gate of its own width too.
        expert_bias: whether experts and their router have biases.
        tied: whether the output shares the embedding's weights, where the config does not say.
        traits: what its attention needs beyond softmax.
        sliding_every: one layer in this many attends to everything, where the config does not say;
            1 when `sliding_window` applies to every layer.
        window_opt_in: whether `sliding_window` counts only with `use_sliding_window`.
        plain_latent: whether the config names latent widths, but keys and values are cached.
        defaults: keys that a config wrapped in another may leave out.
    """

    norms: int = 2
    norm_bias: bool = False
    gated: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    gated_attention: bool = False
    expert_bias: bool = False
    tied: bool = False
    traits: tuple[str, ...] = ()
    sliding_every: int = 1
    window_opt_in: bool = False
    plain_latent: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


FAMILIES = {
    "llama": Family(
        defaults={
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "vocab_size": 32000,
            "max_position_embeddings": 2048,
        }
    ),
    "mistral": Family(),
    "ministral3": Family(),
    "nemotron-nas": Family(),
    "qwen2": Family(qkv_bias=True, window_opt_in=True),
    "qwen2_vl": Family(qkv_bias=True, window_opt_in=True),
    "qwen2_vl_text": Family(qkv_bias=True, window_opt_in=True),
    "qwen2_5_vl": Family(qkv_bias=True, window_opt_in=True),
    "qwen2_5_vl_text": Family(qkv_bias=True, window_opt_in=True),
    "qwen2_5_omni_text": Family(qkv_bias=True, window_opt_in=True),
    "qwen2_moe": Family(qkv_bias=True, window_opt_in=True),
    "qwen3": Family(qk_norm=True, window_opt_in=True),
    "qwen3_vl_text": Family(qk_norm=True, window_opt_in=True),
    "qwen3_moe": Family(qk_norm=True, window_opt_in=True),
    "qwen3_vl_moe_text": Family(qk_norm=True, window_opt_in=True),
    "qwen3_omni_moe_text": Family(qk_norm=True, window_opt_in=True),
    "qwen3_next": Family(qk_norm=True, gated_attention=True),
    "qwen3_5_text": Family(qk_norm=True, gated_attention=True),
    "qwen3_5_moe_text": Family(qk_norm=True, gated_attention=True),
    "phi": Family(
        norms=1, norm_bias=True, gated=False, qkv_bias=True, out_bias=True, mlp_bias=True
    ),
    "phi3": Family(),
    "granite": Family(tied=True),
    "granitemoehybrid": Family(),
    "cohere": Family(norms=1, tied=True),
    "starcoder2": Family(
        norm_bias=True,
        gated=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied=True,
    ),
    "gemma": Family(tied=True),
    "gemma2": Family(norms=4, tied=True, traits=("softcap",), sliding_every=2),
    "gemma3_text": Family(
        norms=4,
        qk_norm=True,
        tied=True,
        sliding_every=6,
        defaults={
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "vocab_size": 262208,
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
        },
    ),
    "gemma4_text": Family(norms=4, qk_norm=True, tied=True),
    "afmoe": Family(norms=4, qk_norm=True, gated_attention=True),
    "apertus": Family(gated=False, qk_norm=True),
    "arcee": Family(gated=False),
    "axk1": Family(),
    "chatglm": Family(qkv_bias=True),
    "deepseek_v2": Family(),
    "deepseek_v3": Family(),
    "deepseek_v32": Family(),
    "falcon": Family(norms=1, norm_bias=True, gated=False, tied=True),
    "glm4": Family(norms=4, qkv_bias=True),
    "glm4_moe": Family(qkv_bias=True),
    "glm4_moe_lite": Family(),
    "glm_moe_dsa": Family(),
    "gpt_neox": Family(norm_bias=True, gated=False, qkv_bias=True, out_bias=True, mlp_bias=True),
    "gpt_oss": Family(traits=("sinks",), expert_bias=True, out_bias=True),
    "jais2": Family(norm_bias=True, gated=False, qkv_bias=True, out_bias=True, mlp_bias=True),
    "kimi_k2": Family(),
    "kimi_linear": Family(),
    "llama4_text": Family(),
    "mimo_v2_flash": Family(traits=("sinks",)),
    "mixtral": Family(),
    "minicpm3": Family(tied=True, plain_latent=True),
    "minimax_m2": Family(qk_norm=True),
    "minimax_m3": Family(),
    "muse_glimmer_text": Family(gated_attention=True),
    "nemotron": Family(norm_bias=True, gated=False),
    "nemotron_h": Family(norms=1, gated=False),
    "persimmon": Family(
        norm_bias=True, gated=False, qkv_bias=True, out_bias=True, mlp_bias=True, qk_norm=True
    ),
    "step3p5": Family(),
    "step3p7": Family(),
}
"""By `model_type`. A type that is not here is read by its keys alone, if they are those of a plain
model (`unplanned`)."""

PLAIN = Family()

EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
"""Names under which configs keep the number of experts."""
