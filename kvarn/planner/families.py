"""Families of decoder-only transformers whose weights can be counted from the config alone."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a `model_type` implies beyond the keys of its config.

    Attributes:
        norms: normalisation weights of hidden size in each layer.
        norm_bias: whether these have biases (LayerNorm instead of RMSNorm).
        gated: whether the MLP has a gate, and so three matrices instead of two.
        qkv_bias, out_bias, mlp_bias: biases, where the config does not say.
        qk_norm: whether queries and keys are normalised per head dimension.
        tied: whether the output shares the embedding's weights, where the config does not say.
        traits: what its attention needs beyond softmax.
        sliding_every: one layer in this many attends to everything, where the config does not say;
            1 when `sliding_window` applies to every layer.
        window_opt_in: whether `sliding_window` counts only with `use_sliding_window`.
    """

    norms: int = 2
    norm_bias: bool = False
    gated: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    traits: tuple[str, ...] = ()
    sliding_every: int = 1
    window_opt_in: bool = False


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True, window_opt_in=True),
    "qwen3": Family(qk_norm=True, window_opt_in=True),
    "phi": Family(
        norms=1, norm_bias=True, gated=False, qkv_bias=True, out_bias=True, mlp_bias=True
    ),
    "phi3": Family(),
    "granite": Family(tied=True),
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
    "gemma3_text": Family(norms=4, qk_norm=True, tied=True, sliding_every=6),
    "mixtral": Family(),
    "qwen3_moe": Family(qk_norm=True, window_opt_in=True),
}

EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts")
"""Names under which configs keep the number of experts."""
