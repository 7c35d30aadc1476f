"""FlashAttention as vLLM ships it, for prompts."""

from functools import cache, partial
from importlib import import_module

from vllm.logger import init_logger
from vllm.platforms import current_platform

from kvarn.format.scratch import DENSE_CHANNELS
from kvarn.kernels.library import Flash

logger = init_logger("vllm.kvarn")  # only loggers below vLLM's have a handler

VERSIONS = (2, 3)
"""Versions that are compiled beforehand, and that attend pages of 128 tokens."""


@cache
def flash_attention(head_dim: int) -> Flash | None:
    """The function that attends heads of so many channels, if vLLM has one for this device."""
    if not current_platform.is_cuda() or head_dim > DENSE_CHANNELS:
        return None
    try:
        library = import_module("vllm.v1.attention.backends.fa_utils")
    except ImportError:  # vLLM was built without it
        return None
    version = library.get_flash_attn_version(head_size=head_dim)
    if version not in VERSIONS:
        return None
    logger.info("Prompts of %d channels per head are left to FlashAttention %d.", head_dim, version)
    flash: Flash = partial(library.flash_attn_varlen_func, fa_version=version)
    return flash
