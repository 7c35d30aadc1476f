"""`python -m bench.serving` from end to end: a tiny model in a real vLLM on the CPU."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.engine.lanes import NEWEST, ROOT, host_environment

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 2048,
}
OPTIONS = (
    *("--format", "auto", "--format", "kvarn_k4v2_g128", "--workload", "128+200"),
    *("--cells", "2x128,64x128", "--seconds", "1", "--engine", "max_num_seqs=16"),
    *("--engine", "kv_cache_memory_bytes=4194304", "--engine", "max_num_batched_tokens=512"),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The record, and what is printed."""
    folder = tmp_path_factory.mktemp("serving")
    (folder / "tiny.json").write_text(json.dumps(CONFIG))
    record = folder / "record.json"
    files = ("--model", str(folder / "tiny.json"), "--json", str(record), "--logs", str(folder))
    finished = subprocess.run(
        [sys.executable, "-m", "bench.serving", *files, *OPTIONS],
        cwd=ROOT,
        # Log-probabilities compile to C++, eager or not.
        env=host_environment(NEWEST) | {"TORCHDYNAMO_DISABLE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(record.read_text()), finished.stdout


@pytest.mark.serving
def test_both_formats_are_measured_to_the_end(done: tuple[dict[str, Any], str]) -> None:
    auto, ours = done[0]["runs"]

    assert done[0]["environment"]["vllm"].startswith(NEWEST)
    assert (auto["check"], ours["check"]) == ({"tokens": 256, "finite": True},) * 2
    assert ours["engine"]["cache_tokens"] > 1.5 * auto["engine"]["cache_tokens"]


@pytest.mark.serving
def test_steps_are_timed_on_computed_and_on_presumed_prompts(
    done: tuple[dict[str, Any], str],
) -> None:
    for run in done[0]["runs"]:
        computed, too_many = run["cells"]

        assert min(computed["ms"], computed["ms_presumed"]) > 0
        assert computed["prefill_tokens_per_second"] > 0
        assert "16 sequences" in too_many["skipped"]


@pytest.mark.serving
def test_the_cache_is_filled_at_saturation_and_half_of_it_at_half_load(
    done: tuple[dict[str, Any], str],
) -> None:
    for run in done[0]["runs"]:
        (workload,) = run["workloads"]
        full, half = workload["saturated"], workload["half_load"]

        assert full["limited_by"] == "cache"
        assert half["preemptions"] == 0
        assert full["cache_usage"] > 1.3 * half["cache_usage"]
        assert full["inter_token_ms"]["count"] > 10


@pytest.mark.serving
def test_the_tables_name_the_fastest_format(done: tuple[dict[str, Any], str]) -> None:
    record, printed = done

    assert {cell["format"] for cell in record["fastest"]} <= {"auto", "kvarn_k4v2_g128", None}
    assert "ms of a step" in printed
