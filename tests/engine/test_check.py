"""The check says on one screen what vLLM will do."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.bare import write_config
from tests.engine.lanes import ROOT, host_environment

pytestmark = pytest.mark.serving


def test_a_model_that_will_be_served(host: Any, tiny_model: Callable[..., str]) -> None:
    options = ["--model", tiny_model(), "--max-model-len", "2048"]
    status, lines = host.call("check", options=options)
    assert status == 0
    assert "KV heads   2 of 64 channels on each device" in lines
    assert "format     kvarn_k4v2_g128, 3.50 bits a number" in lines
    assert "kernels    PyTorch, outside of CUDA graphs" in lines
    assert lines[-1] == "verdict    vLLM will start with this cache"
    assert [line[:11].strip() for line in lines] == [
        *("kvarn", "vLLM", "torch", "device", "model", "KV heads"),
        *("format", "token", "open tile", "kernels", "verdict"),
    ]


def test_a_format_may_be_named_before_vllm_has_loaded_its_plugins(
    release: str, tmp_path: Path
) -> None:
    model = write_config(tmp_path, {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    done = subprocess.run(
        [
            *(sys.executable, "-m", "kvarn.engine.check", "--model", model),
            *("--skip-tokenizer-init", "--kv-cache-dtype", "kvarn_k4v4_g128"),
        ],
        cwd=ROOT,
        env=host_environment(release),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "format     kvarn_k4v4_g128, 4.50 bits a number" in done.stdout.splitlines()


def test_a_combination_that_will_be_refused(host: Any, tiny_model: Callable[..., str]) -> None:
    status, lines = host.call("check", options=["--model", tiny_model(), "--block-size", "64"])
    assert status == 1
    assert lines[-1].endswith("leave out --block-size 64.")


@pytest.mark.parametrize(
    ("what", "config"),
    [
        (
            "(attention sinks not supported)",
            {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]},
        ),
        (
            "does not serve models with ALiBi",
            {"model_type": "bloom", "architectures": ["BloomForCausalLM"], "n_head": 2},
        ),
        (
            "(partial multimodal token full attention not supported)",
            {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                "is_mm_prefix_lm": True,
            },
        ),
    ],
    ids=["sinks", "ALiBi", "images"],
)
def test_what_only_the_layers_tell(
    host: Any, tmp_path: Path, what: str, config: dict[str, Any]
) -> None:
    options = ["--model", write_config(tmp_path, config), "--skip-tokenizer-init"]

    status, lines = host.call("check", options=options)
    assert status == 1
    assert lines[-1].startswith("verdict    refused: kvarn_k4v2_g128 ")
    assert what in lines[-1]

    status, lines = host.call("check", options=[*options, "--kv-cache-dtype", "auto"])
    assert (status, lines[-1]) == (0, "verdict    vLLM will start with this cache")


def test_layers_are_made_whatever_shares_them(host: Any, tiny_model: Callable[..., str]) -> None:
    options = ["--model", tiny_model(), "--tensor-parallel-size", "2"]
    status, lines = host.call("check", options=options)
    assert "KV heads   1 of 64 channels on each device" in lines
    assert (status, lines[-1]) == (0, "verdict    vLLM will start with this cache")


def test_layers_that_cannot_be_made_leave_the_question_open(
    host: Any, tiny_model: Callable[..., str]
) -> None:
    status, lines = host.call("check", options=["--model", tiny_model(hidden_act="gelu")])
    assert status == 1
    assert lines[-1].startswith(
        "verdict    not known: the layers cannot be made without weights (ValueError: "
    )


def test_a_gpu_that_is_too_old_whatever_the_model(host: Any) -> None:
    status, lines = host.call("check", options=[], gpu=(7, 0))
    assert status == 1
    assert "(compute capability 7.0, Triton" in lines[3]
    assert lines[-1] == (
        "verdict    refused: kvarn_k4v2_g128 needs a GPU of compute capability 8.0 or later, "
        "and this one has 7.0; use --kv-cache-dtype auto."
    )


def test_another_cache_names_no_kernels(host: Any, tiny_model: Callable[..., str]) -> None:
    status, lines = host.call(
        "check", options=["--model", tiny_model(), "--kv-cache-dtype", "auto"]
    )
    assert status == 0
    assert not [line for line in lines if line.startswith("kernels")]


def test_layers_that_stay_out_of_the_format_are_numbered(
    host: Any, tiny_model: Callable[..., str]
) -> None:
    layers = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    model = tiny_model(model_type="gemma3_text", sliding_window=256, layer_types=layers)
    status, lines = host.call("check", options=["--model", model])
    assert status == 0
    assert "left out   layers 0-1, 3: kept in the model's precision" in lines
