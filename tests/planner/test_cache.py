"""Cache arithmetic against figures that vLLM reported."""

from dataclasses import replace

import pytest

from kvarn.format.layout import FORMATS as TILE_FORMATS
from kvarn.format.layout import TileLayout, tail_bytes
from kvarn.planner import FORMATS, Accelerator
from kvarn.planner.accelerators import GIB
from kvarn.planner.cache import CacheLayout, cache_layout
from kvarn.planner.version import EngineVersion
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


def test_tiles_make_one_group_and_tails_as_many_as_fit_its_block() -> None:
    """The example in `kvarn.engine.specs`: Llama-3.1-8B with requests of 8,192 tokens."""
    layout = cache_layout(real_shape("Meta-Llama-3.1-8B"), GPU, FORMATS["kvarn_k4v2_g128"])

    tile = TileLayout(TILE_FORMATS["kvarn_k4v2_g128"], 128).tile_bytes
    tails = -(-32 // (32 * 8 * tile // tail_bytes(kv_heads=8, head_dim=128, element_bytes=2)))
    assert layout.block_bytes == 32 * 8 * tile
    assert layout.request_blocks(8192, in_flight_tokens=8192) == 64 + tails


def test_windows_beside_tiles_have_pages_of_64_tokens() -> None:
    """gemma-2-2b: 13 layers of each kind, of whose windows five fit into a block of tiles."""
    layout = cache_layout(real_shape("gemma-2-2b-it"), GPU, FORMATS["kvarn_k4v2_g128"])

    tile = TileLayout(TILE_FORMATS["kvarn_k4v2_g128"], 256).tile_bytes
    tail = tail_bytes(kv_heads=4, head_dim=256, element_bytes=2)
    assert layout.block_bytes == 13 * 4 * tile
    assert (layout.block_bytes // tail, layout.block_bytes // (tail // 2)) == (2, 5)
    assert layout.request_blocks(8192, in_flight_tokens=2048) == 64 + 7 + 3 * (96 + 1)


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


def test_stages_keep_the_layers_of_the_longest() -> None:
    shape = real_shape("Qwen2.5-32B")
    layouts = [
        cache_layout(shape, replace(GPU, stages=stages), FORMATS["bf16"]) for stages in (1, 3)
    ]

    assert layouts[1].block_bytes * 64 == layouts[0].block_bytes * 22


def test_latent_attention_is_copied_to_every_device() -> None:
    shape = real_shape("DeepSeek-V3.2")
    (alone, shared) = (
        cache_layout(shape, replace(GPU, count=count), FORMATS["bf16"]) for count in (1, 8)
    )

    assert alone == shared
    assert alone.block_bytes == 61 * 16 * (576 * 2 + 132)


@pytest.mark.parametrize(
    ("cache_format", "version", "latent_bytes"),
    [("bf16", "0.33", 1152), ("bf16", "0.13", 656), ("fp8", "0.33", 656)],
)
def test_sparse_attention_has_a_layout_of_its_own_in_8_bits(
    cache_format: str, version: str, latent_bytes: int
) -> None:
    engine = EngineVersion.parse(version)
    layout = cache_layout(real_shape("DeepSeek-V3.2"), GPU, FORMATS[cache_format], engine)

    assert layout.block_bytes == 61 * 16 * (latent_bytes + 132)


@pytest.mark.parametrize(("version", "kept"), [("0.12", 1_000_000), ("0.33", 8192 + 8192)])
def test_chunks_are_let_go_since_0_13(version: str, kept: int) -> None:
    engine = EngineVersion.parse(version)
    shape = real_shape("Llama-4-Scout-17B-16E-Instruct")
    layout = cache_layout(shape, GPU, FORMATS["bf16"], engine)

    blocks = layout.request_blocks(1_000_000, in_flight_tokens=8192)
    groups = len(layout.groups)
    assert blocks == 1_000_000 // 16 + (groups - 1) * kept // 16


@pytest.mark.parametrize(
    ("model", "count", "version", "cache_bytes", "longest", "tokens"),
    [
        ("Qwen3.6-27B-NVFP4", 4, "0.19", 7.47, 32768, 122_304),
        ("gpt-oss-120b", 4, "0.10", 45.32, 16384, 2_640_144),
        ("gemma-2-2b-it", 1, "0.19", 66.47, 8192, 670_160),
    ],
)
def test_before_0_21_tokens_are_those_of_one_group(
    *, model: str, count: int, version: str, cache_bytes: float, longest: int, tokens: int
) -> None:
    """From logs, which round the memory to 0.01 GiB."""
    engine = EngineVersion.parse(version)
    layout = cache_layout(real_shape(model), replace(GPU, count=count), FORMATS["bf16"], engine)
    blocks = layout.request_blocks(longest, in_flight_tokens=8192)

    found = layout.reported_tokens(layout.blocks(int(cache_bytes * GIB)), longest, blocks)
    assert found == pytest.approx(tokens, rel=0.001)


@pytest.mark.parametrize(
    ("model", "version", "in_flight", "cache_bytes", "longest", "tokens"),
    [
        ("Qwen3.6-27B-NVFP4", "0.27", 8192, 41.03, 4096, 292_522),
        ("gemma-4-26B-A4B", "0.25", 2496, 84.68, 262144, 3_912_140),
        ("gemma-4-26B-A4B", "0.25", 2496, 83.89, 262144, 3_875_400),
    ],
)
def test_since_0_21_tokens_are_those_of_the_longest_request(
    *, model: str, version: str, in_flight: int, cache_bytes: float, longest: int, tokens: int
) -> None:
    engine = EngineVersion.parse(version)
    layout = cache_layout(real_shape(model), GPU, FORMATS["bf16"], engine)
    blocks = layout.request_blocks(longest, in_flight_tokens=in_flight)

    found = layout.reported_tokens(layout.blocks(int(cache_bytes * GIB)), longest, blocks)
    assert found == pytest.approx(tokens, rel=0.001)


def test_a_recurrent_state_lengthens_the_blocks_of_attention() -> None:
    """A log shows 784 tokens for this model, whatever the number of devices."""
    for count in (1, 4):
        device = replace(GPU, count=count)
        layout = cache_layout(real_shape("Qwen3.6-27B-NVFP4"), device, FORMATS["bf16"])

        assert {group.block_tokens for group in layout.groups} == {16, 784}
