"""Which layers stay out of the format: those with a sliding window, and those that the user names.

Their cache is kept in the model's precision, by the backend that vLLM takes without the format.
"""

from collections.abc import Iterable
from itertools import count, groupby

from vllm.config import ModelConfig, VllmConfig
from vllm.distributed.utils import get_pp_indices
from vllm.logger import init_logger

logger = init_logger("vllm.kvarn")  # only loggers below vLLM's have a handler

WINDOWED = "sliding_window"
"""vLLM's word for layers with a sliding window among ``--kv-cache-dtype-skip-layers``."""


def skip_windows(config: VllmConfig) -> None:
    """Keep layers with a sliding window out of the format, and say which layers are out of it."""
    skipped, model = config.cache_config.kv_cache_dtype_skip_layers, config.model_config
    if model and "sliding_attention" in attention_kinds(model) and WINDOWED not in skipped:
        skipped.append(WINDOWED)
    if numbers := skipped_layers(config):
        logger.info_once(
            "Layers %s stay out of %s: their cache is kept in the model's precision.",
            spans(numbers),
            config.cache_config.cache_dtype,
        )


def skipped_layers(config: VllmConfig) -> list[int]:
    """Numbers of the layers that stay out of the format, ascending."""
    skipped, model = config.cache_config.kv_cache_dtype_skip_layers, config.model_config
    if not skipped or model is None:
        return []
    kinds = attention_kinds(model) if WINDOWED in skipped else []
    windowed = {number for number, kind in enumerate(kinds) if kind == "sliding_attention"}
    layers = range(model.get_total_num_hidden_layers())
    return [number for number in layers if number in windowed or str(number) in skipped]


def tiled_on_stages(config: VllmConfig) -> list[int]:
    """How many layers are under the format in each stage of a pipeline; empty if there is none."""
    model, stages = config.model_config, config.parallel_config.pipeline_parallel_size
    if model is None or stages == 1:
        return []
    total = model.get_total_num_hidden_layers()
    tiled = set(range(total)) - set(skipped_layers(config))
    return [len(tiled & set(range(*get_pp_indices(total, n, stages)))) for n in range(stages)]


def attention_kinds(model: ModelConfig) -> list[str]:
    """Kind of attention of each layer, if the model names it; else empty.

    Where windows are switched off, layers that name one attend to everything.
    """
    kinds = list(getattr(model.hf_text_config, "layer_types", None) or ())
    if model.get_sliding_window():
        return kinds
    return ["full_attention" if kind == "sliding_attention" else kind for kind in kinds]


def spans(numbers: Iterable[int]) -> str:
    """Ascending numbers for people: ``0-4, 6``."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(zip(count(), numbers), lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
