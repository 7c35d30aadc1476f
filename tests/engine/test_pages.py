"""What lies in the pages of a real vLLM's pool, and that its tokens come out of them."""

from collections.abc import Callable
from typing import Any

import pytest

from kvarn.format.layout import FORMATS, TILE_TOKENS, TileLayout, tail_bytes, tail_pages
from kvarn.planner import FORMATS as PLANNED_FORMATS
from kvarn.planner import Accelerator, read_shape
from kvarn.planner.cache import cache_layout
from tests.engine.conftest import CallError

pytestmark = pytest.mark.serving

PROMPT = [(7 * token * token) % 256 for token in range(300)]
LAYERS = 10
SETTLED = {"kv_cache_dtype": "kvarn_k4v2_g128", "dtype": "bfloat16", "max_model_len": 256}


@pytest.mark.parametrize(
    ("cache_format", "keys_within", "values_within"),
    [("kvarn_k4v2_g128", 0.12, 0.45), ("kvarn_k4v4_g128", 0.12, 0.12), ("kvarn_raw_g128", 0, 0)],
)
def test_closed_tiles_lie_packed_in_one_page_each(
    host: Any,
    tiny_model: Callable[..., str],
    cache_format: str,
    keys_within: float,
    values_within: float,
) -> None:
    """Byte for byte what the reference makes of the keys and values that the model computed."""
    options = {"kv_cache_dtype": cache_format, "dtype": "bfloat16"}
    model = tiny_model(num_hidden_layers=LAYERS)
    layers = host.call("compare_pages", model=model, options=options, prompt=PROMPT)
    assert len(layers) == LAYERS
    for layer in layers:
        assert layer["pages"] == [1, 1]
        assert layer["bytes"] == TileLayout(FORMATS[cache_format], 64).tile_bytes
        assert layer["errors"][0] <= keys_within
        assert layer["errors"][1] <= values_within


def test_tokens_come_out_of_the_packed_pages(host: Any, tiny_model: Callable[..., str]) -> None:
    """A cached prompt goes on otherwise when its pages are wiped, and as before when restored."""
    fresh, wiped, restored = host.call(
        "forget_pages",
        model=tiny_model(),
        options={"kv_cache_dtype": "kvarn_k4v2_g128"},
        prompt=PROMPT,
        tokens=20,
    )
    assert restored == fresh
    assert wiped != fresh


@pytest.mark.parametrize(
    ("cache_format", "changes"),
    [
        pytest.param("kvarn_k4v2_g128", {"num_hidden_layers": 10}, id="two-tails-a-block"),
        pytest.param("kvarn_k4v4_g128", {"num_hidden_layers": 10}, id="three-tails-a-block"),
        pytest.param("kvarn_k4v2_g128", {"num_hidden_layers": 3}, id="a-tail-wider-than-the-tiles"),
        pytest.param("kvarn_k4v4_g128", {"num_hidden_layers": 12, "head_dim": 80}, id="80-wide"),
        pytest.param(
            "kvarn_k4v2_g128",
            {
                "model_type": "gemma3_text",
                "num_hidden_layers": 12,
                "sliding_window": 256,
                "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 2,
            },
            id="sliding-windows",
        ),
    ],
)
def test_vllm_reports_the_capacity_that_the_planner_computes(
    host: Any, tiny_model: Callable[..., str], cache_format: str, changes: dict[str, Any]
) -> None:
    memory_bytes, longest, in_flight = 64 << 20, 2048, 512
    model = tiny_model(**changes)
    reported = host.call(
        "capacity",
        model=model,
        options={
            "kv_cache_dtype": cache_format,
            "dtype": "bfloat16",
            "kv_cache_memory_bytes": memory_bytes,
            "max_model_len": longest,
            "max_num_batched_tokens": in_flight,
        },
    )
    planned = cache_layout(read_shape(model), Accelerator.cpu(), PLANNED_FORMATS[cache_format])
    per_request = planned.request_blocks(longest, in_flight_tokens=in_flight)
    assert reported["tokens"] == int(planned.blocks(memory_bytes) / per_request * longest)


def test_the_longest_context_is_the_one_that_the_planner_computes(
    host: Any, tiny_model: Callable[..., str]
) -> None:
    """`--max-model-len auto` starts with what fits."""
    memory_bytes = 2 << 20
    model = tiny_model(num_hidden_layers=LAYERS)
    started = host.call(
        "capacity",
        model=model,
        options={
            "kv_cache_dtype": "kvarn_k4v2_g128",
            "dtype": "bfloat16",
            "kv_cache_memory_bytes": memory_bytes,
            "max_model_len": -1,
        },
    )
    planned = cache_layout(read_shape(model), Accelerator.cpu(), PLANNED_FORMATS["kvarn_k4v2_g128"])
    assert 0 < started["longest"] < 4096
    assert started["longest"] == planned.longest_tokens(
        memory_bytes, at_most=4096, in_flight_tokens=512
    )


@pytest.mark.parametrize(
    ("stages", "pages"), [([5, 5], 5), ([11, 9], 11), ([9, 10, 13], 13), ([24, 20], 6)]
)
def test_the_stages_of_a_pipeline_share_two_groups_of_pages(
    host: Any, tiny_model: Callable[..., str], stages: list[int], pages: int
) -> None:
    """A group of which a stage has no layer would have vLLM ask it for another one's."""
    groups = host.call(
        "stage_groups",
        model=tiny_model(num_hidden_layers=sum(stages)),
        options=SETTLED,
        stages=stages,
    )
    assert groups == [[(layers, 2), (1, pages)] for layers in stages]


def test_open_tiles_have_places_of_their_own(host: Any, tiny_model: Callable[..., str]) -> None:
    """Eleven layers of two heads: two of them in a page."""
    model = tiny_model(num_hidden_layers=11)
    places = host.call("settle", model=model, options=SETTLED, stages=1, heads=[2] * 11)
    assert places == [(layer // 2, layer % 2 * 2, layer % 2 * 2 + 2) for layer in range(11)]


@pytest.mark.parametrize(
    ("stages", "heads", "reason"),
    [
        (1, [2, 4, 2], "models whose layers differ in KV heads or in channels"),
        (2, [2] * 4, "a pipeline of models that have fewer layers of attention than layers"),
    ],
)
def test_layers_whose_open_tiles_would_overlap_are_refused(
    host: Any, tiny_model: Callable[..., str], stages: int, heads: list[int], reason: str
) -> None:
    model = tiny_model(num_hidden_layers=12)
    with pytest.raises(CallError, match=f"kvarn_k4v2_g128 does not serve {reason}"):
        host.call("settle", model=model, options=SETTLED, stages=stages, heads=heads)


def test_the_worked_example_of_the_page_arithmetic() -> None:
    """Llama-3.1-8B in 10 GiB, as kvarn.engine.specs reckons it."""
    layers, longest = 32, 8192
    packed = layers * 8 * TileLayout(FORMATS["kvarn_k4v2_g128"], 128).tile_bytes
    tail = tail_bytes(kv_heads=8, head_dim=128, element_bytes=2)
    tails, pages = tail_pages([layers], packed_bytes=packed // layers, raw_bytes=tail)
    blocks = (10 << 30) // packed
    assert (tails, pages, packed, blocks) == (6, 6, 3_538_944, 3_034)
    assert int(blocks / (longest // TILE_TOKENS + pages) * longest) == 355_064
