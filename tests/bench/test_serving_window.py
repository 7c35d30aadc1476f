"""Rates of a window: as many prompts are counted as answers, however the window lies to them."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from bench.serving.window import Window

SEQUENCES, PROMPT_TOKENS = 10, 1000


def report(ends: Sequence[int], steps: int) -> dict[str, Any]:
    """A window's figures, of steps of 0.1 s; of 1 s where a prompt is computed, after each end."""
    window, now = Window(), 1.0
    for index in range(steps):
        computes = index - 1 in ends
        now += 1.0 if computes else 0.1
        step: Any = SimpleNamespace(
            iteration_timestamp=now,
            num_generation_tokens=SEQUENCES,
            prompt_token_stats=SimpleNamespace(computed=PROMPT_TOKENS if computes else 0),
            time_to_first_tokens_iter=[0.5] * computes,
            inter_token_latencies_iter=[0.1] * SEQUENCES,
            finished_requests=[None] * (index in ends),
            num_preempted_reqs=0,
        )
        window.add(step)
    return window.report()


@pytest.mark.parametrize("first", [1, 7, 14])
def test_a_steady_load_has_the_same_rates_wherever_the_window_begins(first: int) -> None:
    """An end in 15 steps, whose prompt takes as long as ten of them."""
    found = report(range(first, 95, 15), steps=95)
    seconds = 14 * 0.1 + 1.0
    assert found["output_tokens_per_second"] == pytest.approx(15 * SEQUENCES / seconds, abs=0.1)
    assert found["prompt_tokens_per_second"] == pytest.approx(PROMPT_TOKENS / seconds, abs=0.1)


@pytest.mark.parametrize("ends", [[], [10], [10, 12]])
def test_where_too_few_requests_end_the_whole_window_counts(ends: list[int]) -> None:
    found = report(ends, steps=41)
    seconds = 40 * 0.1 + len(ends) * 0.9
    assert found["seconds"] == pytest.approx(seconds, abs=0.01)
    assert found["output_tokens_per_second"] == pytest.approx(40 * SEQUENCES / seconds, abs=0.1)


def test_nothing_is_no_rate() -> None:
    assert report([], steps=1)["output_tokens_per_second"] == 0.0
