"""New values for vLLM's ``--kv-cache-dtype``."""

import sys
from typing import Literal, get_args

import torch
from pydantic.dataclasses import rebuild_dataclass
from vllm.config import CacheConfig, VllmConfig
from vllm.config import cache as cache_module
from vllm.utils.torch_utils import STR_DTYPE_TO_TORCH_DTYPE
from vllm.v1.kv_cache_interface import KVQuantMode


def register_cache_dtypes(names: tuple[str, ...]) -> None:
    """Make vLLM accept names as cache types stored in bytes."""
    new = tuple(name for name in names if name not in STR_DTYPE_TO_TORCH_DTYPE)
    if not new:
        return
    if hasattr(cache_module, "register_kv_cache_dtype"):
        for name in new:
            cache_module.register_kv_cache_dtype(name)(_handler(name))
    else:
        _extend_literal(new)


def _handler(cache_dtype: str) -> type:
    class Handler:
        name = cache_dtype

        def torch_dtype(self) -> torch.dtype:
            return torch.uint8

        def quant_mode(self) -> KVQuantMode:
            # The backend is chosen by name. Any other mode makes vLLM look for scales.
            return KVQuantMode.NONE

    return Handler


def _extend_literal(names: tuple[str, ...]) -> None:
    """Replace the type of all names where vLLM 0.32 uses it: there is no registration yet."""
    old = cache_module.CacheDType
    extended = Literal[*get_args(old), *names]  # type: ignore[valid-type]
    for name, module in sys.modules.items():
        if name.startswith("vllm.") and vars(module).get("CacheDType") is old:
            module.CacheDType = extended  # type: ignore[attr-defined]
    CacheConfig.__annotations__["cache_dtype"] = extended
    CacheConfig.__dataclass_fields__["cache_dtype"].type = extended
    CacheConfig.__pydantic_fields__["cache_dtype"].annotation = extended
    for config in (CacheConfig, VllmConfig):
        rebuild_dataclass(config, force=True)
    _extend_arguments(extended)
    STR_DTYPE_TO_TORCH_DTYPE.update(dict.fromkeys(names, torch.uint8))


def _extend_arguments(extended: object) -> None:
    arguments = sys.modules.get("vllm.engine.arg_utils")
    if arguments is not None:
        arguments.EngineArgs.__dataclass_fields__["kv_cache_dtype"].type = extended
        arguments._compute_kwargs.cache_clear()
