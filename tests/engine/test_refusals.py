"""What the cache cannot do is refused before a weight is loaded, naming the option to change."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvarn.format.layout import FORMATS

pytestmark = pytest.mark.serving

K4V2 = {"kv_cache_dtype": "kvarn_k4v2_g128"}


@pytest.fixture
def without_weights(tiny_model: Callable[..., str]) -> Callable[..., str]:
    """A model folder in which nothing but the config is left to read."""

    def write(**changes: Any) -> str:
        folder = Path(tiny_model(**changes))
        for weights in folder.glob("*.safetensors"):
            weights.unlink()
        return str(folder)

    return write


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"block_size": 64}, "--block-size 64"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 4}},
            "--speculative-config",
        ),
        ({"disable_hybrid_kv_cache_manager": True}, "--disable-hybrid-kv-cache-manager"),
        (
            {
                "kv_transfer_config": {
                    "kv_connector": "ExampleConnector",
                    "kv_role": "kv_both",
                }
            },
            "--kv-transfer-config",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options(
    refusal: Callable[..., str],
    without_weights: Callable[..., str],
    options: dict[str, Any],
    remedy: str,
) -> None:
    said = refusal(without_weights(num_hidden_layers=1), **options, **K4V2)
    assert said.startswith("UnsupportedError: kvarn_k4v2_g128 ")
    assert f"leave out {remedy}" in said or f"and {remedy}" in said


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"head_dim": 32}, "not 32"),
        (
            {"model_type": "mistral", "sliding_window": 64},
            "every layer has a sliding window",
        ),
    ],
)
def test_models(
    refusal: Callable[..., str],
    without_weights: Callable[..., str],
    changes: dict[str, Any],
    what: str,
) -> None:
    said = refusal(without_weights(**changes), **K4V2)
    assert what in said
    assert "use --kv-cache-dtype auto" in said


def test_latent_vectors(refusal: Callable[..., str], tmp_path: Path) -> None:
    """MLA, which a config alone announces."""
    config = {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "hidden_size": 128,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 64,
        "v_head_dim": 64,
        "torch_dtype": "bfloat16",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "latent vectors" in refusal(str(tmp_path), skip_tokenizer_init=True, **K4V2)


def test_a_name_that_is_no_format_is_answered_with_those_that_are(
    refusal: Callable[..., str], without_weights: Callable[..., str]
) -> None:
    said = refusal(without_weights(num_hidden_layers=1), kv_cache_dtype="kvarn_k9")
    assert "kvarn_k4v2_g128" in said


def test_registering_again_changes_nothing(host: Any) -> None:
    left = host.call("register_again")
    assert left["hooks_stay"]
    assert [left["names"].count(name) for name in FORMATS] == [1] * len(FORMATS)
