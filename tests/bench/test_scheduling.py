"""What a step costs the host: vLLM's engine core plans for two groups of pages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.serving


def scheduling(*options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bench.scheduling", *options]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_formats_have_two_groups_of_pages_where_bfloat16_has_one() -> None:
    done = scheduling("--sequences", "8", "--steps", "5", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {row["format"]: row["groups"] for row in found["formats"]} == {
        "auto": 1,
        "kvarn_k4v2_g128": 2,
        "kvarn_k3v3_g128": 2,
        "kvarn_k4v3_g128": 2,
        "kvarn_k4v4_g128": 2,
    }
    assert all(row["ms"] > 0 for row in found["formats"])


def test_a_model_that_is_none() -> None:
    done = scheduling("nothing")
    assert done.returncode == 2
    assert done.stderr == (
        "Error: nothing is no model; take llama-3.1-8b, qwen3-32b, qwen3-8b or the path of a"
        " config.json.\n"
    )


def test_a_model_that_vllm_does_not_take(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"model_type": "nothing"}')
    done = scheduling(str(config), "--sequences", "1", "--steps", "1")
    assert done.returncode == 2
    assert f"Error: vLLM does not take {config}: " in done.stderr
    assert "Traceback" not in done.stderr
