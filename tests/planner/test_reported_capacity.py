"""The planned capacity is the one that a real vLLM reports."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.startup import measure
from kvarn.planner import Accelerator, Limits, plan, read_shape
from tests.support.tiny_model import write_tiny_model

pytestmark = pytest.mark.serving

SERVER = Accelerator.cpu(memory_bytes=3 << 30)


def uniform_model(folder: Path) -> Path:
    """A Llama, all of whose layers are alike."""
    return write_tiny_model(folder)


def interleaved_model(folder: Path) -> Path:
    """A Gemma with ten layers that slide and two that do not."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=257,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=12,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        sliding_window=256,
    )
    Gemma3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("write_model", "cache_format"),
    [
        (uniform_model, "bf16"),
        (uniform_model, "kvarn_k4v4_g128"),
        (interleaved_model, "kvarn_k4v2_g128"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_capacity_is_exactly_as_planned(
    write_model: Callable[[Path], Path], cache_format: str, tmp_path: Path
) -> None:
    model = write_model(tmp_path)
    fixed = Limits(max_model_tokens=2000, max_sequences=5, max_batched_tokens=512)
    made = plan(read_shape(model), SERVER, limits=fixed, cache_format=cache_format)

    assert measure(model, made) == {
        "tokens": made.cache_tokens,
        "concurrency": made.max_concurrency,
        "blocks": made.cache_blocks,
    }
