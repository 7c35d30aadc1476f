"""What is refused before a model is loaded, and what is set for the user."""

from collections.abc import Iterator
from itertools import chain

import torch
from vllm.config import ModelConfig, VllmConfig
from vllm.platforms.interface import DeviceCapability
from vllm.v1.attention.backend import AttentionBackend
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.attention.selector import AttentionSelectorConfig

from kvarn.engine.choice import this_device
from kvarn.engine.errors import UnsupportedError
from kvarn.engine.skipping import attention_kinds, skip_windows, tiled_on_stages
from kvarn.format.layout import (
    FORMATS,
    HEAD_DIMS,
    TILE_TOKENS,
    TileLayout,
    fewest_layers,
    tail_bytes,
)

MODEL_TYPES = (torch.float16, torch.bfloat16, torch.float32)


def check_configuration(config: VllmConfig) -> None:
    """Refuse what the cache cannot do, and keep sliding-window layers out of it.

    Raises:
        UnsupportedError: naming the option to change.
    """
    cache_format = config.cache_config.cache_dtype
    if cache_format not in FORMATS:
        _check_backend(config)
        return
    if reason := this_device().why_unsupported():
        raise UnsupportedError(f"{cache_format} {reason}.")
    for reason in chain(_unsupported_options(config), _unsupported_model(config)):
        raise UnsupportedError(f"{cache_format} {reason}.")
    skip_windows(config)
    for reason in _unsupported_stages(config):
        raise UnsupportedError(f"{cache_format} {reason}.")


def _check_backend(config: VllmConfig) -> None:
    if config.attention_config.backend is AttentionBackendEnum["KVARN"]:
        raise UnsupportedError(
            f"The backend KVARN does not compute with --kv-cache-dtype "
            f"{config.cache_config.cache_dtype}; leave out --attention-backend KVARN."
        )


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
    if config.kv_transfer_config is not None or cache.kv_offloading_size is not None:
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
    if parallel.use_ubatching:  # one half of a batch may read what the other stores
        yield "does not split batches; leave out --enable-dbo and --ubatch-size"


def _unsupported_model(config: VllmConfig) -> Iterator[str]:
    model: ModelConfig | None = config.model_config
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
    if model.get_sliding_window() and set(attention_kinds(model)) <= {"sliding_attention"}:
        yield f"does not serve models whose every layer has a sliding window; {otherwise}"


def _unsupported_stages(config: VllmConfig) -> Iterator[str]:
    """A stage of a pipeline whose tiles are too few for a block that holds an open one.

    Of such pages vLLM makes several groups, and asks a stage for those of another one's layers.
    """
    if not (held := tiled_on_stages(config)):
        return
    model = config.model_config
    heads, head_dim = model.get_num_kv_heads(config.parallel_config), model.get_head_size()
    layout = TileLayout(FORMATS[config.cache_config.cache_dtype], head_dim)
    raw = tail_bytes(kv_heads=heads, head_dim=head_dim, element_bytes=model.dtype.itemsize)
    needed = fewest_layers(packed_bytes=heads * layout.tile_bytes, raw_bytes=raw)
    if min(held) < needed:
        yield (
            f"needs {needed} layers on each device of a pipeline, and one has {min(held)}; "
            f"lower --pipeline-parallel-size {len(held)}"
        )
