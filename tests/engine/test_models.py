"""What varies between models: dimensions of heads, their grouping, depth, windows, adapters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.adapter import write_adapter
from tests.engine.lanes import once
from tests.engine.prompts import K4V2, PROMPTS, RAW, prompt

pytestmark = pytest.mark.serving

Generate = Callable[..., dict[str, Any]]
Model = Callable[..., str]

CLOSED_AND_OPEN = [prompt(length, length) for length in (70, 128, 300)]


@once
@pytest.mark.parametrize(
    ("head_dim", "group"),
    [(64, 1), (80, 2), (96, 4), (128, 8), (192, 16), (256, 1), (512, 2)],
)
def test_heads_of_each_dimension_and_grouping(
    generate: Generate, tiny_model: Model, head_dim: int, group: int
) -> None:
    """Raw tiles give the tokens of the stock cache."""
    model = tiny_model(
        num_hidden_layers=2,
        head_dim=head_dim,
        num_attention_heads=group,
        num_key_value_heads=1,
    )
    stock, raw = (
        generate([CLOSED_AND_OPEN], model=model, tokens=20, **cache) for cache in ({}, RAW)
    )
    assert raw["tokens"] == stock["tokens"]


@once
@pytest.mark.parametrize("layers", [pytest.param(2, id="wider"), pytest.param(16, id="narrower")])
def test_a_tail_page_of_another_width_than_the_tiles(
    generate: Generate, tiny_model: Model, layers: int
) -> None:
    """A batch in a tight pool gives the tokens of each sequence alone in a roomy one."""
    model = tiny_model(num_hidden_layers=layers)
    prompts = CLOSED_AND_OPEN
    together = generate([prompts], model=model, tokens=30, enable_prefix_caching=True, **K4V2)
    alone = generate([[each] for each in prompts], model=model, tokens=30, **K4V2)
    assert [[tokens] for tokens in together["tokens"][0]] == alone["tokens"]


def test_layers_with_a_sliding_window_stay_out_of_the_format(
    generate: Generate, tiny_model: Model, host: Any
) -> None:
    """Beside raw tiles, they make the stock cache's tokens, and a line of the log numbers them.

    Also from a prefix that both kinds of pages hold, which are of different lengths.
    """
    layers = ["sliding_attention", "full_attention"] * 2
    model = tiny_model(model_type="gemma3_text", sliding_window=256, layer_types=layers)
    tiles = {**RAW, "attention_backend": "KVARN", "enable_prefix_caching": True}
    twice = [PROMPTS[:3], PROMPTS[:3]]
    stock, raw = (generate(twice, model=model, **cache) for cache in ({}, tiles))
    assert raw["tokens"] == stock["tokens"]
    assert raw["cached"] == [[0, 0, 0], [256, 384, 384]]
    assert host.log.count("Layers 0, 2 stay out of kvarn_raw_g128") == 1


def test_windows_that_are_switched_off_keep_no_layer_out_of_the_format(
    host: Any, tiny_model: Model
) -> None:
    layers = ["sliding_attention", "full_attention"] * 2
    model = tiny_model(model_type="gemma3_text", sliding_window=256, layer_types=layers)
    status, lines = host.call("check", options=["--model", model, "--disable-sliding-window"])
    assert status == 0
    assert not [line for line in lines if line.startswith("left out")]


@pytest.mark.parametrize("layers", [4, 8, 12])
def test_a_window_in_pages_that_held_tiles(
    generate: Generate, tiny_model: Model, layers: int
) -> None:
    """Blocks that go from hand to hand give the tokens that fresh blocks give."""
    kinds = ["sliding_attention", "full_attention"] * (layers // 2)
    gemma = {"model_type": "gemma3_text", "sliding_window": 256, "layer_types": kinds}
    model = tiny_model(num_hidden_layers=layers, **gemma)
    prompts = [prompt(length, length) for length in (300, 70, 200, 10, 385, 130)]
    (fresh,) = generate([prompts], model=model, tokens=5, **K4V2)["tokens"]
    in_turn = generate([[each] for each in prompts * 2], model=model, tokens=5, **K4V2)["tokens"]
    assert in_turn == [[tokens] for tokens in fresh * 2]


@once
def test_scores_that_are_soft_capped(generate: Generate, tiny_model: Model) -> None:
    """Raw tiles give the stock cache's tokens, which another cap changes."""
    kinds = ["sliding_attention", "full_attention"] * 2
    gemma = {"model_type": "gemma2", "sliding_window": 256, "layer_types": kinds}
    capped, loose = (tiny_model(**gemma, attn_logit_softcapping=cap) for cap in (0.5, 50.0))
    stock, raw = (generate([CLOSED_AND_OPEN], model=capped, tokens=20, **c) for c in ({}, RAW))
    assert raw["tokens"] == stock["tokens"]
    assert raw["tokens"] != generate([CLOSED_AND_OPEN], model=loose, tokens=20, **RAW)["tokens"]


@once
def test_layers_that_the_user_leaves_out_stay_out_of_the_format(
    generate: Generate, host: Any
) -> None:
    left_out = {"kv_cache_dtype_skip_layers": ["0", "1", "3"]}
    stock, raw = (generate([PROMPTS[:3]], **cache) for cache in ({}, RAW | left_out))
    assert raw["tokens"] == stock["tokens"]
    assert "Layers 0-1, 3 stay out of kvarn_raw_g128" in host.log


@once
def test_an_adapter(generate: Generate, tiny_model: Model, tmp_path: Path) -> None:
    """With LoRA, raw tiles give the stock cache's tokens, and batches those of each alone."""
    adapted = {"adapter": write_adapter(tmp_path, tiny_model()), "enable_lora": True}
    stock, raw, together = (
        generate([CLOSED_AND_OPEN], tokens=20, **adapted, **cache) for cache in ({}, RAW, K4V2)
    )
    alone = generate([[each] for each in CLOSED_AND_OPEN], tokens=20, **adapted, **K4V2)
    assert raw["tokens"] == stock["tokens"]
    assert stock["tokens"] != generate([CLOSED_AND_OPEN], tokens=20)["tokens"]
    assert [[tokens] for tokens in together["tokens"][0]] == alone["tokens"]
