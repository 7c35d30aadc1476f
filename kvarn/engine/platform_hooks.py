"""Four methods of vLLM's platform class, wrapped.

``check_and_update_config`` sees a configuration before anything is loaded: there, what the cache
cannot do is refused. ``get_attn_backend_cls`` sees each layer's cache type: there, layers under a
KVarN format get their backend. ``update_block_size_for_backend`` sees all layers before they are
asked for their pages: there, their order, their open tiles' pages and what the others' pages hold
are settled.
``register_custom_kv_cache_specs`` is where platforms name managers of pages: there, ours get
theirs. Everything else goes on as before.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from vllm.config import VllmConfig, get_current_vllm_config
from vllm.platforms.interface import Platform
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.attention.selector import AttentionSelectorConfig

from kvarn.engine.backend import BACKENDS
from kvarn.engine.configuration import check_configuration, check_layer
from kvarn.engine.layers import settle_layers
from kvarn.engine.managers import register_managers

CPU_BACKEND = "vllm.v1.attention.backends.cpu_attn.CPUAttentionBackend"
CPU_SKIPPED_LAYER_BACKEND = "kvarn.engine.skipped_layers.SkippedLayerBackend"


def hook_platform(platform: type[Platform]) -> None:
    """Wrap the platform's methods, once."""
    if "_kvarn_hooked" in vars(platform):
        return
    platform._kvarn_hooked = True
    _wrap(platform, "check_and_update_config", _check_first)
    _wrap(platform, "get_attn_backend_cls", _choose_first)
    _wrap(platform, "update_block_size_for_backend", _settle_first)
    _wrap(platform, "register_custom_kv_cache_specs", _register_too)


def _wrap(platform: type[Platform], name: str, hook: Callable[..., Any]) -> None:
    original = getattr(platform, name)

    @wraps(original)
    def wrapped(cls: type[Platform], *args: Any, **kwargs: Any) -> Any:
        return hook(original, cls, *args, **kwargs)

    setattr(platform, name, classmethod(wrapped))


def _check_first(
    original: Callable[..., None], _platform: type[Platform], vllm_config: VllmConfig
) -> None:
    check_configuration(vllm_config)
    original(vllm_config)


def _settle_first(
    original: Callable[..., None], _platform: type[Platform], vllm_config: VllmConfig
) -> None:
    if vllm_config.cache_config.cache_dtype in BACKENDS:
        settle_layers(vllm_config)
    original(vllm_config)


def _register_too(
    original: Callable[..., None], _platform: type[Platform], vllm_config: VllmConfig
) -> None:
    register_managers()
    original(vllm_config)


def _choose_first(
    original: Callable[..., str],
    platform: type[Platform],
    selected_backend: object,
    attn_selector_config: AttentionSelectorConfig,
    num_heads: int | None = None,
) -> str:
    backend = BACKENDS.get(attn_selector_config.kv_cache_dtype)
    if backend is not None:
        check_layer(backend, attn_selector_config, platform.get_device_capability())
        return f"{backend.__module__}.{backend.__qualname__}"
    beside_format = get_current_vllm_config().cache_config.cache_dtype in BACKENDS
    if beside_format and selected_backend is AttentionBackendEnum["KVARN"]:
        selected_backend = None  # it computes no layer that stays out of the format
    chosen = original(selected_backend, attn_selector_config, num_heads)
    return CPU_SKIPPED_LAYER_BACKEND if beside_format and chosen == CPU_BACKEND else chosen
