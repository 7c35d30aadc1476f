"""Which mixer each layer has: attention of some reach, latent attention, or a recurrence."""

from collections.abc import Iterator
from typing import NoReturn

from kvarn.planner.config_file import ConfigView
from kvarn.planner.errors import ShapeError
from kvarn.planner.families import Family

FULL = "full"
"""Attends to the whole context."""
WINDOW = "window"
"""Attends to the last tokens."""
CHUNK = "chunk"
"""Attends to its own chunk of the context (Llama 4)."""
LATENT = "latent"
"""Attends to the whole context through one compressed vector a token (MLA)."""
MAMBA = "mamba"
DELTA = "delta"
"""A gated delta net (Qwen3-Next, Qwen3.5)."""
KIMI = "kimi"
"""Kimi's delta attention."""
NONE = "none"
"""Mixes no tokens."""

RECURRENT = (MAMBA, DELTA, KIMI)

_NAMES = {
    "full_attention": FULL,
    "attention": FULL,
    "sliding_attention": WINDOW,
    "chunked_attention": CHUNK,
    "moe": NONE,
    "mlp": NONE,
}
_INDEXED = ("indexed_attention", "deepseek_sparse_attention")
"""Attention to the whole context that chooses tokens by an index."""
_RECURRENCES = ("linear_attention", "mamba")
"""Names of any recurrence: transformers 5 calls Mamba layers `linear_attention` too."""
_LETTERS = {"M": MAMBA, "*": FULL, "-": NONE, "E": NONE}
"""Of `hybrid_override_pattern` (Nemotron-H)."""
MOST_LAYERS = 4096
NOPE_EVERY = 4
"""One layer of Llama 4 in so many has no RoPE and attends to everything."""


def mixers(view: ConfigView, family: Family, *, latent: bool) -> tuple[str, ...]:
    """The mixer of each layer, in the model's order.

    Raises:
        ShapeError: the config lacks the number of layers, or names a kind that is not known.
    """
    for read in (_by_pattern, _by_name, _by_number, _by_block):
        if named := read(view):
            return tuple(LATENT if latent and name == FULL else name for name in named)
    count = _count(view)
    if latent:
        return (LATENT,) * count
    if view.count("linear_num_value_heads"):
        every = view.integer("full_attention_interval", default=4)
        return tuple(DELTA if (layer + 1) % every else FULL for layer in range(count))
    if view.count("attention_chunk_size"):
        return tuple(_nope(view, count))
    return _windows(view, family, count)


def _count(view: ConfigView) -> int:
    count = view.integer("num_hidden_layers", "num_layers", "n_layer")
    if count > MOST_LAYERS:
        raise ShapeError(
            "InvalidConfig",
            f"num_hidden_layers in the model's config is {count}; no model has so many layers.",
        )
    return count


def _by_pattern(view: ConfigView) -> tuple[str, ...]:
    letters = view.word("hybrid_override_pattern")
    return tuple(_LETTERS.get(letter) or _unknown(view, letter) for letter in letters)


def _by_name(view: ConfigView) -> tuple[str, ...]:
    names = view.sequence("layers_block_type") or view.sequence("layer_types")
    known = tuple(_named(view, str(name)) for name in names)
    if _window(view) and view.flag("use_sliding_window", default=True):
        return known
    return tuple(FULL if name == WINDOW else name for name in known)


def _named(view: ConfigView, name: str) -> str:
    if name in _RECURRENCES:
        return _recurrence(view) or _unknown(view, name)
    if name in _INDEXED and "index_topk" in view:
        return FULL
    return _NAMES.get(name) or _unknown(view, name)


def _recurrence(view: ConfigView) -> str:
    """The recurrence that the config's keys describe; empty where they describe none."""
    if "linear_attn_config" in view:
        return KIMI
    if "linear_num_value_heads" in view:
        return DELTA
    if "ssm_state_size" in view or "mamba_d_state" in view:
        return MAMBA
    return ""


def _unknown(view: ConfigView, name: str) -> NoReturn:
    raise ShapeError(
        "UnknownLayer",
        f"{view.word('model_type')} has layers of the kind {name!r}, which is not planned for;"
        " state layerKinds in the shape, or leave the context to vLLM with --max-model-len auto.",
    )


def _by_number(view: ConfigView) -> tuple[str, ...]:
    """Kimi's list of recurrent layers, counted from 1; MiMo's list of windows."""
    linear = view.part("linear_attn_config")
    if recurrent := linear.sequence("kda_layers"):
        count = _count(view)
        return tuple(KIMI if layer + 1 in recurrent else FULL for layer in range(count))
    windows = view.sequence("hybrid_layer_pattern")
    return tuple(WINDOW if number == 1 else FULL for number in windows)


def _by_block(view: ConfigView) -> tuple[str, ...]:
    """Searched architectures (Nemotron-NAS), some of whose layers have lost their attention."""
    return tuple(NONE if block.part("attention").flag("no_op") else FULL for block in blocks(view))


def blocks(view: ConfigView) -> tuple[ConfigView, ...]:
    """What a searched architecture says of each layer; empty for all others."""
    stated = view.sequence("block_configs")
    return tuple(ConfigView(block) for block in stated if isinstance(block, dict))


def _nope(view: ConfigView, count: int) -> Iterator[str]:
    for layer in range(count):
        stated = view.entry("no_rope_layers", layer)
        roped = (layer + 1) % NOPE_EVERY if stated is None else stated
        yield CHUNK if roped else FULL


def _window(view: ConfigView) -> int:
    """Tokens that a window reaches; 0 where it reaches the whole context."""
    window = view.count("sliding_window")
    return window if window < view.integer("max_position_embeddings", default=1 << 60) else 0


def _windows(view: ConfigView, family: Family, count: int) -> tuple[str, ...]:
    """Where the window applies, as vLLM's models read it."""
    used = view.flag("use_sliding_window", default=not family.window_opt_in)
    if not (_window(view) and used):
        return (FULL,) * count
    first = view.integer("max_window_layers", default=count)
    if first < count:
        return (FULL,) * first + (WINDOW,) * (count - first)
    every = view.integer("sliding_window_pattern", default=family.sliding_every)
    if every == 1:
        return (WINDOW,) * count
    return tuple(WINDOW if (layer + 1) % every else FULL for layer in range(count))
