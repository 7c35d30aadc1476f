"""What lies in the pages of a real vLLM's pool, and that its tokens come out of them."""

from collections.abc import Callable
from typing import Any

import pytest

from kvarn.format.layout import FORMATS, TILE_TOKENS, TileLayout, tail_bytes

pytestmark = pytest.mark.serving

PROMPT = [(7 * token * token) % 256 for token in range(300)]
LAYERS = 10


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


@pytest.mark.parametrize("cache_format", ["kvarn_k4v2_g128", "kvarn_k4v4_g128"])
def test_capacity_is_what_the_page_arithmetic_says(
    host: Any, tiny_model: Callable[..., str], cache_format: str
) -> None:
    """The rule of kvarn.engine.specs, spelled out."""
    memory_bytes, longest, kv_heads = 64 << 20, 2048, 2
    result = host.call(
        "generate",
        model=tiny_model(num_hidden_layers=LAYERS),
        options={
            "kv_cache_dtype": cache_format,
            "dtype": "bfloat16",
            "kv_cache_memory_bytes": memory_bytes,
            "max_model_len": longest,
        },
        rounds=[[PROMPT]],
        tokens=1,
    )
    packed = LAYERS * kv_heads * TileLayout(FORMATS[cache_format], 64).tile_bytes
    tail = tail_bytes(kv_heads=kv_heads, head_dim=64, element_bytes=2)
    tails_per_block = packed // tail
    assert tails_per_block >= 2
    blocks_per_request = longest // TILE_TOKENS + -(-LAYERS // tails_per_block)
    blocks = memory_bytes // packed
    assert result["capacity"] == int(blocks / blocks_per_request * longest)
