"""A model folder in which nothing lies but the config: each architecture is told by that alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SMALL = {
    "dtype": "float32",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 256,
    "max_position_embeddings": 2048,
}


def write_config(folder: Path, config: Mapping[str, Any]) -> str:
    """Write a small model's config with what is said of it; returns the folder."""
    (folder / "config.json").write_text(json.dumps({**SMALL, **config}))
    return str(folder)
