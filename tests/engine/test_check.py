"""The check says on one screen what vLLM will do."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.serving


def test_a_model_that_will_be_served(host: Any, tiny_model: Callable[..., str]) -> None:
    options = ["--model", tiny_model(), "--max-model-len", "2048"]
    status, lines = host.call("check", options=options)
    assert status == 0
    assert "KV heads   2 of 64 channels on each device" in lines
    assert "format     kvarn_k4v2_g128, 3.50 bits a number" in lines
    assert lines[-1] == "verdict    vLLM will start with this cache"
    assert len(lines) <= 24


def test_a_combination_that_will_be_refused(host: Any, tiny_model: Callable[..., str]) -> None:
    status, lines = host.call("check", options=["--model", tiny_model(), "--block-size", "64"])
    assert status == 1
    assert lines[-1].endswith("leave out --block-size 64.")
