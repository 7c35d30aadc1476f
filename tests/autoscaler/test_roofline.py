"""The simulation's steps against the planner's roofline, of which they are made."""

import pytest

from bench.autoscaler.roofline import QWEN3_32B, server, step_time
from bench.autoscaler.serving import prefill_rate, step_seconds
from bench.serving.scenario import STEPS, Cell
from kvarn.planner import FORMATS, Accelerator
from kvarn.planner.roofline import Roofline

FORMAT = "kvarn_k4v2_g128"
SPEED = Roofline(
    shape=QWEN3_32B, accelerator=Accelerator.find("H200"), cache_format=FORMATS[FORMAT]
)


@pytest.mark.parametrize("cell", [Cell(16, 1024), Cell(8, 32_768), Cell(64, 8192), Cell(256, 1024)])
def test_a_step_takes_what_the_planner_says(cell: Cell) -> None:
    made = step_seconds(server("H200", cache_format=FORMAT), cell)

    planned = SPEED.step_seconds(cell.sequences, cell.context + STEPS // 2)
    assert made == pytest.approx(planned, rel=0.01)


def test_a_prompt_takes_what_the_planner_says() -> None:
    step = step_time(SPEED)

    assert step.prefill_seconds(8192) == pytest.approx(SPEED.prefill_seconds(8192), rel=0.001)


def test_prompts_in_steps_are_computed_almost_as_fast_as_the_planner_says() -> None:
    made = prefill_rate(server("H200", cache_format=FORMAT), Cell(4, 8192))

    assert made == pytest.approx(8192 / SPEED.prefill_seconds(8192), rel=0.03)
    assert made < 8192 / SPEED.prefill_seconds(8192)


def test_an_open_tile_takes_several_blocks() -> None:
    """128 tokens in bfloat16 take as much as five tiles of 128 in four and two bits."""
    assert server("H200", cache_format=FORMAT).tail_tokens == 5 * 128
    assert server("H200", cache_format="fp8").tail_tokens == 0
