"""What is refused before a model is loaded, and what is set for the user."""

from collections.abc import Iterator

import torch
from vllm.config import ModelConfig, VllmConfig
from vllm.logger import init_logger
from vllm.platforms.interface import DeviceCapability
from vllm.v1.attention.backend import AttentionBackend
from vllm.v1.attention.selector import AttentionSelectorConfig

from kvarn.engine.errors import UnsupportedError
from kvarn.format.layout import FORMATS, HEAD_DIMS, TILE_TOKENS

logger = init_logger("vllm.kvarn")  # only loggers below vLLM's have a handler

MODEL_TYPES = (torch.float16, torch.bfloat16, torch.float32)


def check_configuration(config: VllmConfig) -> None:
    """Refuse what the cache cannot do, and keep sliding-window layers out of it.

    Raises:
        UnsupportedError: naming the option to change.
    """
    cache_format = config.cache_config.cache_dtype
    if cache_format not in FORMATS:
        return
    for reason in (*_unsupported_options(config), *_unsupported_model(config.model_config)):
        raise UnsupportedError(f"{cache_format} {reason}.")
    _skip_sliding_windows(config)


def check_layer(
    backend: type[AttentionBackend],
    selector: AttentionSelectorConfig,
    capability: DeviceCapability | None,
) -> None:
    """Refuse a layer that the backend cannot compute.

    Raises:
        UnsupportedError: with vLLM's words for what is missing.
    """
    reasons = backend.validate_configuration(**selector._asdict(), device_capability=capability)
    if reasons:
        raise UnsupportedError(
            f"{selector.kv_cache_dtype} cannot serve this model ({', '.join(reasons)}); "
            "use --kv-cache-dtype auto."
        )


def _unsupported_options(config: VllmConfig) -> Iterator[str]:
    cache, parallel = config.cache_config, config.parallel_config
    if cache.user_specified_block_size and cache.block_size != TILE_TOKENS:
        yield f"needs blocks of {TILE_TOKENS} tokens; leave out --block-size {cache.block_size}"
    if config.speculative_config is not None:
        yield "does not go with speculative decoding; leave out --speculative-config"
    if config.kv_transfer_config is not None:
        yield (
            "does not go with KV connectors and offloading; "
            "leave out --kv-transfer-config and --kv-offloading-size"
        )
    if config.scheduler_config.disable_hybrid_kv_cache_manager:
        yield "needs pages of two kinds; leave out --disable-hybrid-kv-cache-manager"
    if parallel.decode_context_parallel_size > 1:
        yield "does not split contexts; leave out --decode-context-parallel-size"
    if parallel.prefill_context_parallel_size > 1:
        yield "does not split contexts; leave out --prefill-context-parallel-size"


def _unsupported_model(model: ModelConfig | None) -> Iterator[str]:
    if model is None:
        return
    otherwise = "use --kv-cache-dtype auto for this model"
    if model.use_mla:
        yield f"does not hold the latent vectors of MLA; {otherwise}"
    if model.is_hybrid or model.is_attention_free:
        yield f"does not hold recurrent state; {otherwise}"
    if model.is_encoder_decoder:
        yield f"does not serve encoder-decoder models; {otherwise}"
    if getattr(model.hf_text_config, "attention_chunk_size", None):
        yield f"does not serve chunked local attention; {otherwise}"
    if model.get_head_size() not in HEAD_DIMS:
        known = ", ".join(map(str, HEAD_DIMS))
        yield f"has tiles for head dimensions {known}, not {model.get_head_size()}; {otherwise}"
    if model.dtype not in MODEL_TYPES:
        yield f"serves models in 16 or 32 bits, not {model.dtype}; use --dtype bfloat16"
    if model.get_sliding_window() and _windows(model) in (set(), {"sliding_attention"}):
        yield f"does not serve models whose every layer has a sliding window; {otherwise}"


def _windows(model: ModelConfig) -> set[str]:
    """Kinds of attention that the model's layers name, if they do."""
    return set(getattr(model.hf_text_config, "layer_types", None) or ())


def _skip_sliding_windows(config: VllmConfig) -> None:
    skipped = config.cache_config.kv_cache_dtype_skip_layers
    model = config.model_config
    if model is None or "sliding_attention" not in _windows(model) or "sliding_window" in skipped:
        return
    skipped.append("sliding_window")
    logger.info("Layers with a sliding window keep their cache in the model's precision.")
