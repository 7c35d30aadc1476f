"""What is settled once a model's layers are made, before vLLM asks them for their pages."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from vllm.config import VllmConfig, set_current_vllm_config

from kvarn.engine.backend import BACKENDS
from kvarn.engine.errors import UnsupportedError
from kvarn.engine.skipping import tiled_on_stages
from kvarn.engine.tail import TailLayer
from kvarn.format.layout import FORMATS, WINDOW_TOKENS, TileLayout, tail_bytes, tail_pages


def settle_layers(config: VllmConfig) -> None:
    """Refuse layers that the cache cannot hold, and settle how vLLM lays out the others' pages.

    Raises:
        UnsupportedError: a layer under a format is computed by something else.
    """
    check_layers(config)
    _place_tails(config)
    _put_tiles_first(config)
    _size_windows(config)


def check_layers(config: VllmConfig) -> None:
    """Refuse layers under a format that another backend computes, or whose heads differ.

    A model may bring a layer's backend, and then vLLM does not ask its platform for one.

    Raises:
        UnsupportedError: with the backend's name, or with what differs.
    """
    tiled = list(_tiled(config).values())
    for reason in chain(_differing(tiled), *map(_unsupported, tiled)):
        raise UnsupportedError(
            f"{tiled[0].kv_cache_dtype} does not serve models {reason}; use --kv-cache-dtype auto."
        )


def _differing(tiled: Sequence[Any]) -> Iterator[str]:
    """Open tiles of all layers share pages, in places of one size."""
    if len({(layer.num_kv_heads, layer.head_size) for layer in tiled}) > 1:
        yield "whose layers differ in KV heads or in channels"


def _unsupported(layer: Any) -> Iterator[str]:
    found = layer.get_attn_backend()
    if found is not BACKENDS[layer.kv_cache_dtype]:
        yield f"that bring an attention of their own ({found.get_name()})"
    if layer.head_size_v != layer.head_size:
        yield f"with keys of {layer.head_size} and values of {layer.head_size_v} channels"


def _tiled(config: VllmConfig) -> Mapping[str, Any]:
    layers = config.compilation_config.static_forward_context
    return {name: layer for name, layer in layers.items() if _has_tiles(layer)}


def _has_tiles(layer: Any) -> bool:
    return getattr(layer, "kv_cache_dtype", None) in BACKENDS


def _place_tails(config: VllmConfig) -> None:
    """Give the layers under the format a place for their open tiles, once.

    Raises:
        UnsupportedError: a stage of a pipeline has other layers than the configuration says.
    """
    layers = config.compilation_config.static_forward_context
    if any(isinstance(layer, TailLayer) for layer in layers.values()):
        return
    if not (tiled := _tiled(config)):
        return
    first, layer = next(iter(tiled.items()))
    stages = tiled_on_stages(config)
    if stages and len(tiled) not in stages:
        raise UnsupportedError(
            f"{layer.kv_cache_dtype} does not serve a pipeline of models that have fewer layers of"
            f" attention than layers; leave out --pipeline-parallel-size {len(stages)}."
        )
    heads, head_dim, dtype = layer.num_kv_heads, layer.head_size, config.model_config.dtype
    owner = TailLayer(
        name=f"{first}.kvarn_tail",
        kv_heads=heads,
        head_dim=head_dim,
        dtype=dtype,
        layout=tail_pages(
            stages or [len(tiled)],
            packed_bytes=heads * TileLayout(FORMATS[layer.kv_cache_dtype], head_dim).tile_bytes,
            raw_bytes=tail_bytes(kv_heads=heads, head_dim=head_dim, element_bytes=dtype.itemsize),
        ),
    )
    layers[owner.name] = owner
    for number, layer in enumerate(tiled.values()):
        layer.impl.tail = owner.tail(number)


def _put_tiles_first(config: VllmConfig) -> None:
    """Let layers under the format lead vLLM's list of layers.

    One group takes in all layers without a window, and vLLM manages its blocks as the pages of its
    first layer ask for. The backend of the first layer says how large pages are beside others.
    """
    layers = config.compilation_config.static_forward_context
    for name in [name for name, layer in layers.items() if not _has_tiles(layer)]:
        layers[name] = layers.pop(name)


def _size_windows(config: VllmConfig) -> None:
    """Have a window's page hold :data:`WINDOW_TOKENS`, where the backends of such layers read it.

    Of small pages, more fit into the block that the tiles need. Without being told, vLLM takes as
    many tokens as a tile has, or half of them, by which layer comes first and by its backend.
    """
    windowed = [
        layer
        for layer in config.compilation_config.static_forward_context.values()
        if getattr(layer, "sliding_window", None) and not _has_tiles(layer)
    ]
    with set_current_vllm_config(config):
        fits = all(
            layer.get_attn_backend().supports_block_size(WINDOW_TOKENS) for layer in windowed
        )
    if windowed and fits:
        config.cache_config.skip_page_size_padded = max(map(_window_bytes, windowed))


def _window_bytes(layer: Any) -> int:
    element_bytes: int = layer.kv_cache_torch_dtype.itemsize
    channels: int = layer.num_kv_heads * (layer.head_size + layer.head_size_v)
    return WINDOW_TOKENS * channels * element_bytes
