"""Cache arithmetic against figures that vLLM reported."""

from dataclasses import replace

import pytest

from kvarn.planner import FORMATS, Accelerator
from kvarn.planner.accelerators import GIB
from kvarn.planner.cache import CacheLayout, cache_layout
from tests.planner.builders import real_shape

GPU = Accelerator.find("H100")


def reported_tokens(layout: CacheLayout, cache_bytes: int, max_model_tokens: int) -> int:
    blocks = layout.request_blocks(max_model_tokens, in_flight_tokens=8192)
    return int(layout.blocks(cache_bytes) / blocks * max_model_tokens)


@pytest.mark.parametrize(
    ("model", "count", "available_gib", "tokens"),
    [
        ("Qwen3-8B", 1, 57.50, 418_688),
        ("Llama-2-7b-hf", 1, 58.44, 119_680),
    ],
)
def test_stock_capacity_is_what_logs_of_real_starts_show(
    model: str, count: int, available_gib: float, tokens: int
) -> None:
    """Logs round the memory to 0.01 GiB, which is worth 0.02 % here."""
    device = replace(GPU, count=count)
    layout = cache_layout(real_shape(model), device, FORMATS["bf16"])

    found = reported_tokens(layout, round(available_gib * GIB), 4096)
    assert found == pytest.approx(tokens, rel=0.001)


def test_tiles_add_up_as_the_engine_documents() -> None:
    """The example in `kvarn.engine.specs`: Llama-3.1-8B, 10 GiB, requests of 8,192 tokens."""
    layout = cache_layout(real_shape("Meta-Llama-3.1-8B"), GPU, FORMATS["kvarn_k4v2_g128"])

    assert layout.block_bytes == 3_473_408
    assert layout.request_blocks(8192, in_flight_tokens=8192) == 64 + 6
    assert reported_tokens(layout, 10 * GIB, 8192) == 361_735


def test_fewer_heads_than_gpus_are_copied() -> None:
    shape = real_shape("Qwen2.5-0.5B")
    layouts = [
        cache_layout(shape, replace(GPU, count=count), FORMATS["bf16"]) for count in (2, 4, 8)
    ]

    assert len({layout.block_bytes for layout in layouts}) == 1


def test_window_layers_hold_no_more_than_their_window() -> None:
    """gemma-3-1b: 4 full layers and 22 sliding ones make groups of 4."""
    layout = cache_layout(real_shape("gemma-3-1b-it"), GPU, FORMATS["bf16"])

    windows = 6 * ((511 + 2048 + 15) // 16 + 1)
    assert layout.request_blocks(32768, in_flight_tokens=2048) == 32768 // 16 + windows


def test_a_model_that_slides_everywhere_has_one_group() -> None:
    layout = cache_layout(real_shape("Mistral-7B-v0.1"), GPU, FORMATS["bf16"])

    assert len(layout.groups) == 1
    assert layout.request_blocks(32768, in_flight_tokens=2048) == (4095 + 2048 + 15) // 16 + 1


def test_the_longest_request_is_found_to_the_token() -> None:
    layout = cache_layout(real_shape("Qwen3-8B"), GPU, FORMATS["kvarn_k4v2_g128"])
    longest = layout.longest_tokens(GIB, at_most=10**6, in_flight_tokens=2048)

    usable = layout.blocks(GIB) - 1
    assert layout.request_blocks(longest, in_flight_tokens=2048) <= usable
    assert layout.request_blocks(longest + 1, in_flight_tokens=2048) > usable


def test_no_memory_holds_no_request() -> None:
    layout = cache_layout(real_shape("Qwen3-8B"), GPU, FORMATS["bf16"])

    assert layout.longest_tokens(-GIB, at_most=10, in_flight_tokens=1) == 0
