"""What is settled once a model's layers are made, before vLLM asks them for their pages."""

from collections.abc import Iterator
from typing import Any

from vllm.config import VllmConfig

from kvarn.engine.backend import BACKENDS
from kvarn.engine.errors import UnsupportedError


def settle_layers(config: VllmConfig) -> None:
    """Refuse layers that the cache cannot hold, and settle how vLLM lays out the others' pages.

    Raises:
        UnsupportedError: a layer under a format is computed by something else.
    """
    check_layers(config)
    _put_tiles_first(config)


def check_layers(config: VllmConfig) -> None:
    """Refuse layers under a format that another backend computes, or whose values are narrower.

    A model may bring a layer's backend, and then vLLM does not ask its platform for one.

    Raises:
        UnsupportedError: with the backend's name, or the channels of keys and values.
    """
    for layer in config.compilation_config.static_forward_context.values():
        for reason in _unsupported(layer):
            raise UnsupportedError(
                f"{layer.kv_cache_dtype} does not serve models {reason}; use --kv-cache-dtype auto."
            )


def _unsupported(layer: Any) -> Iterator[str]:
    if not _has_tiles(layer):
        return
    found = layer.get_attn_backend()
    if found is not BACKENDS[layer.kv_cache_dtype]:
        yield f"that bring an attention of their own ({found.get_name()})"
    if layer.head_size_v != layer.head_size:
        yield f"with keys of {layer.head_size} and values of {layer.head_size_v} channels"


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
