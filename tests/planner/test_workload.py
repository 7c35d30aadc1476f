"""The workload that limits are solved for, of which a part may be stated."""

import json
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from kvarn.cli import main
from kvarn.planner import RequestError, Workload

numbers = st.none() | st.integers(1, 5000)


def test_what_is_not_stated_is_cut_to_the_context() -> None:
    """SmolLM's is 2,048 tokens, shorter than the usual request."""
    arguments = ["plan", "HuggingFaceTB/SmolLM-1.7B", "--gpu", "L4", "--concurrency", "8"]
    result = CliRunner().invoke(main, [*arguments, "--json"])

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["plan"]["maxModelTokens"] == 2048


@pytest.mark.parametrize(
    ("stated", "prompt", "output"),
    [
        ({}, 1536, 512),
        ({"concurrency": 8}, 1536, 512),
        ({"prompt_tokens": 2000}, 2000, 48),
        ({"prompt_tokens": 100}, 100, 512),
        ({"output_tokens": 1024}, 1024, 1024),
        ({"output_tokens": 40}, 2008, 40),
        ({"prompt_tokens": 9, "output_tokens": 9}, 9, 9),
    ],
)
def test_a_context_of_2048_tokens(stated: dict[str, int], prompt: int, output: int) -> None:
    found = Workload.stated(2048, **stated)

    assert (found.prompt_tokens, found.output_tokens) == (prompt, output)
    assert found.concurrency == stated.get("concurrency", 64)


@given(st.integers(2, 10000), numbers, numbers)
def test_what_is_stated_stands_and_the_rest_fits(
    tokens: int, prompt: int | None, output: int | None
) -> None:
    found = Workload.stated(tokens, prompt_tokens=prompt, output_tokens=output)

    assert prompt in (None, found.prompt_tokens)
    assert output in (None, found.output_tokens)
    if (prompt or 0) + (output or 0) < tokens:
        assert found.request_tokens <= tokens


@pytest.mark.parametrize("stated", [{"prompt_tokens": 0}, {"output_tokens": -1}])
def test_nothing_is_no_workload(stated: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="give at least 1"):
        Workload.stated(2048, **stated)
