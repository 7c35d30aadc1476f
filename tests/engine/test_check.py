"""The check says on one screen what vLLM will do."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.serving

ROOT = Path(__file__).parents[2]


def check(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kvarn.engine.check", *options]
    return subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_a_model_that_will_be_served(tiny_model: Callable[..., str]) -> None:
    said = check("--model", tiny_model(), "--max-model-len", "2048")
    lines = said.stdout.splitlines()
    assert said.returncode == 0
    assert "KV heads   2 of 64 channels on each device" in lines
    assert "format     kvarn_k4v2_g128, 3.50 bits a number" in lines
    assert lines[-1] == "verdict    vLLM will start with this cache"
    assert len(lines) <= 24


def test_a_combination_that_will_be_refused(tiny_model: Callable[..., str]) -> None:
    said = check("--model", tiny_model(), "--block-size", "64")
    assert said.returncode == 1
    assert said.stdout.splitlines()[-1].endswith("leave out --block-size 64.")
