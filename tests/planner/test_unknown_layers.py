"""A layer that the planner does not know is named, never taken for attention to everything."""

from typing import Any

import pytest

from kvarn.planner import ShapeError, read_shape
from tests.planner.builders import real_config

NAMES = ["full_attention"] * 20 + ["{}"] * 16


def _layers(name: str, **changes: Any) -> dict[str, Any]:
    named = [kind.format(name) for kind in NAMES]
    return real_config("Qwen3-8B", layer_types=named, **changes)


@pytest.mark.parametrize(
    "name",
    ["conv", "hybrid", "indexed_attention", "linear_attention", "mamba", "window_attention", ""],
)
def test_a_layer_of_a_kind_that_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(ShapeError, match=f"layers of the kind '{name}'") as raised:
        read_shape(_layers(name))

    assert raised.value.reason == "UnknownLayer"


def test_a_letter_of_a_pattern_that_is_not_known_is_refused() -> None:
    with pytest.raises(ShapeError, match="layers of the kind 'X'"):
        read_shape(real_config("Nemotron-H-56B-Base-8K", hybrid_override_pattern="MX" * 59))


@pytest.mark.parametrize("name", ["linear_attention", "mamba"])
@pytest.mark.parametrize(
    ("keys", "state"),
    [
        (
            {
                "linear_num_key_heads": 16,
                "linear_key_head_dim": 128,
                "linear_num_value_heads": 32,
                "linear_value_head_dim": 128,
            },
            8192 * 3 * 2 + 32 * 128 * 128 * 4,
        ),
        (
            {
                "mamba_n_heads": 64,
                "mamba_d_head": 64,
                "mamba_d_state": 128,
                "model_type": "granitemoehybrid",
            },
            (4096 + 2 * 128) * 3 * 2 + 4096 * 128 * 2,
        ),
        (
            {"linear_attn_config": {"num_heads": 32, "head_dim": 128}},
            3 * 4096 * 3 * 2 + 32 * 128 * 128 * 4,
        ),
    ],
    ids=["delta", "mamba", "kimi"],
)
def test_a_recurrence_is_the_one_that_the_keys_describe(
    name: str, keys: dict[str, Any], state: int
) -> None:
    kinds = {kind.kind: kind for kind in read_shape(_layers(name, **keys)).kinds}

    assert (kinds["state"].layers, kinds["state"].state_bytes) == (16, state)
