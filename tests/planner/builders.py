"""Shapes, configs and strategies that the planner's tests share."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from kvarn.planner import Accelerator, ModelShape, known_gpus, read_shape
from kvarn.planner.accelerators import GIB

CONFIGS = Path(__file__).parent.parent / "data/model-configs"
JUNK: list[Any] = [None, 0, -1, 1, 3, 2.5, True, "", "many", [], [1], ["x"], {}, {"a": 1}, 1 << 70]
GEMMA_3 = {
    "model_type": "gemma3_text",
    "hidden_size": 3840,
    "intermediate_size": 15360,
    "num_attention_heads": 16,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "sliding_window": 1024,
}
"""What the config of gemma-3-12b-it says of the language model, its RoPE and layers aside."""


def config_path(model: str) -> Path:
    """The config of a real model."""
    (path,) = CONFIGS.glob(f"*__{model}.json")
    return path


def real_config(model: str, **changes: Any) -> dict[str, Any]:
    """A real model's config with some keys changed; None removes a key."""
    config = json.loads(config_path(model).read_text()) | changes
    return {key: value for key, value in config.items() if value is not None}


def real_shape(model: str) -> ModelShape:
    """A real model's shape."""
    return read_shape(config_path(model))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in an object; of a list, to its first element."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*path, 0))


def with_junk(whole: dict[str, Any], path: tuple[Any, ...], junk: Any) -> dict[str, Any]:
    """An object of JSON with one value replaced."""
    copy: dict[str, Any] = json.loads(json.dumps(whole))
    place: Any = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = junk
    return copy


@st.composite
def shapes(draw: st.DrawFn) -> ModelShape:
    """Dense models from toys to giants."""
    kv_heads = draw(st.sampled_from([1, 2, 4, 8, 16, 32]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 4, 8]))
    head_dim = draw(st.sampled_from([64, 80, 96, 128, 256]))
    layers = draw(st.integers(1, 128))
    return ModelShape(
        architecture="LlamaForCausalLM",
        layers=layers,
        attention_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=heads * head_dim,
        intermediate_size=4 * heads * head_dim,
        vocab_size=draw(st.integers(256, 262144)),
        weight_bytes=draw(st.integers(1 << 20, 200 * GIB)),
        dtype=draw(st.sampled_from(["bfloat16", "float16"])),
        max_position_tokens=draw(st.sampled_from([512, 4096, 40960, 131072])),
        sliding_window_tokens=1024,
        sliding_layers=draw(st.integers(0, layers)),
    )


gpus = st.builds(
    lambda gpu, count: Accelerator.find(gpu.product, count=count),
    st.sampled_from(known_gpus()),
    st.sampled_from([1, 2, 4, 8]),
)
cpus = st.builds(
    lambda mebibytes: Accelerator.cpu(memory_bytes=mebibytes << 20), st.integers(64, 65536)
)
accelerators = st.one_of(gpus, cpus)
