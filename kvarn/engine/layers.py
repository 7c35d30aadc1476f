"""What is settled once a model's layers are made, before vLLM asks them for their pages."""

from typing import Any

from vllm.config import VllmConfig

from kvarn.engine.backend import BACKENDS

def settle_layers(config: VllmConfig) -> None:
    """Settle how vLLM lays out the layers' pages."""
    _put_tiles_first(config)


def _has_tiles(layer: Any) -> bool:
    return getattr(layer, "kv_cache_dtype", None) in BACKENDS


def _put_tiles_first(config: VllmConfig) -> None:
    """Let layers under the format lead vLLM's list of layers.

    One group takes in all layers without a window, and vLLM manages its blocks as the pages of its
    first layer ask for. The backend of the first layer says how large pages are beside others.
    """
    layers = config.compilation_config.static_forward_context
    for name in [name for name, layer in layers.items() if not _has_tiles(layer)]:
        layers[name] = layers.pop(name)
