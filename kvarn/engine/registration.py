"""What the plugin does to a vLLM process: formats, backend, platform hooks, in this order."""

import vllm
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

from kvarn.engine import versions
from kvarn.engine.cache_dtypes import register_cache_dtypes
from kvarn.engine.platform_hooks import hook_platform
from kvarn.format.layout import FORMATS

logger = init_logger("vllm.kvarn")  # only loggers below vLLM's have a handler


def register_formats() -> None:
    """Register every format, or say loudly why not.

    An unknown vLLM is left alone, because runs that do not ask for these formats must go on.
    """
    if reason := versions.why_unsupported(vllm.__version__):
        logger.error("The formats %s are not registered: %s", ", ".join(FORMATS), reason)
        return
    register_cache_dtypes(tuple(FORMATS))
    if "KVARN" not in AttentionBackendEnum.__members__:
        register_backend("KVARN", "kvarn.engine.backend.KVarnBackend")
    hook_platform(type(current_platform))
