"""Formats that vLLM or the kernels refuse, for a model on a device by a release."""

from dataclasses import replace

import pytest

from kvarn.format.layout import FORMATS as TILE_FORMATS
from kvarn.format.layout import TailPages, TileLayout, tail_bytes, tail_pages
from kvarn.planner import FORMATS, Accelerator, ModelShape, plan
from kvarn.planner.catalogue import known_models
from kvarn.planner.version import LATEST, EngineVersion
from tests.planner.builders import real_shape

LLAMA = real_shape("Meta-Llama-3.1-8B")
GEMMA = real_shape("gemma-2-2b-it")
QWEN = known_models()["Qwen/Qwen2.5-7B-Instruct"]
IMAGES = replace(LLAMA, attention_traits=("images",))
A100 = Accelerator.find("A100-SXM4-80GB")
TILES = [name for name, known in FORMATS.items() if known.tiled]


def refusal(name: str, shape: ModelShape, device: Accelerator, release: str = LATEST.name) -> str:
    return FORMATS[name].refusal(shape, device, EngineVersion.parse(release))


@pytest.mark.parametrize("name", ["fp8", *TILES])
@pytest.mark.parametrize("model", ["Llama-3.2-1B", "Phi-3-mini-128k-instruct", "Qwen2.5-0.5B"])
def test_a_gpu_older_than_ampere_gets_a_plain_cache(name: str, model: str) -> None:
    shape, old = real_shape(model), Accelerator.find("Tesla-T4")

    assert "compute capability 7.5; " in refusal(name, shape, old)
    assert plan(shape, old).format == "bf16"


def test_a_gpu_that_nobody_knows_is_taken_for_a_new_one() -> None:
    novel = Accelerator.find("new", memory_bytes=10**11)

    assert not any(refusal(name, LLAMA, novel) for name in FORMATS)


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        (real_shape("DeepSeek-V2-Lite"), "latent attention"),
        (real_shape("gpt-oss-120b"), "attention with sinks"),
        (real_shape("Phi-3-mini-128k-instruct"), "a head dimension of 96"),
        (IMAGES, "attention with images"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_before_ada_flashinfer_alone_reads_fp8(shape: ModelShape, what: str) -> None:
    words = f"a GPU of compute capability 8.0; {what} in fp8 needs 8.9"

    assert refusal("fp8", shape, A100) == words
    assert plan(shape, replace(A100, count=2)).format != "fp8"
    assert not refusal("fp8", shape, Accelerator.find("L40S"))


@pytest.mark.parametrize("shape", [LLAMA, GEMMA, QWEN], ids=lambda shape: shape.architecture)
def test_what_flashinfer_serves_has_fp8_on_ampere(shape: ModelShape) -> None:
    assert not refusal("fp8", shape, A100)


@pytest.mark.parametrize("name", TILES)
def test_images_whose_tokens_attend_both_ways_get_no_tiles(name: str) -> None:
    assert refusal(name, IMAGES, A100) == "attention with images"


@pytest.mark.parametrize(
    ("shape", "stages", "fewest"), [(LLAMA, 8, 4), (QWEN, 28, 1), (GEMMA, 4, 3)]
)
def test_the_tiles_of_each_stage_must_fill_the_block_of_an_open_one(
    *, shape: ModelShape, stages: int, fewest: int
) -> None:
    device = replace(Accelerator.find("H100"), stages=stages)

    assert refusal("kvarn_k4v2_g128", shape, device) == (
        f"a pipeline with {fewest} layers of full attention on a device; tiles need 5"
    )
    assert plan(shape, device).format != "kvarn_k4v2_g128"


@pytest.mark.parametrize(("shape", "stages"), [(LLAMA, 6), (LLAMA, 4), (QWEN, 5), (GEMMA, 2)])
def test_stages_that_are_long_enough_have_tiles(shape: ModelShape, stages: int) -> None:
    assert not refusal("kvarn_k4v2_g128", shape, replace(A100, stages=stages))


@pytest.mark.parametrize(
    ("stages", "tails", "pages"),
    [([32], 6, 6), ([1], 1, 1), ([4], 1, 4), ([16, 16], 3, 6), ([10, 14], 2, 7)],
)
def test_a_page_holds_as_many_tails_as_the_tiles_of_the_shortest_stage_have_room_for(
    stages: list[int], tails: int, pages: int
) -> None:
    packed = 8 * TileLayout(TILE_FORMATS["kvarn_k4v2_g128"], 128).tile_bytes
    raw = tail_bytes(kv_heads=8, head_dim=128, element_bytes=2)

    assert tail_pages(stages, packed_bytes=packed, raw_bytes=raw) == TailPages(tails, pages)


@pytest.mark.parametrize("release", ["0.31", "0.34.0rc1", "1.0"])
def test_a_release_that_the_plugin_leaves_alone_gets_no_tiles(release: str) -> None:
    made = plan(QWEN, A100, engine_version=release)

    assert not made.format.startswith("kvarn")
    assert {refusal(name, QWEN, A100, release) for name in TILES} == {
        f"vLLM {EngineVersion.parse(release).name}; tiles need 0.32 or 0.33"
    }


@pytest.mark.parametrize("release", ["0.32.1", "0.33"])
def test_a_release_that_the_plugin_knows_has_tiles(release: str) -> None:
    assert not any(refusal(name, QWEN, A100, release) for name in TILES)
