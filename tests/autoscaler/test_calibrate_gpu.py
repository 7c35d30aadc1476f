"""The comparison with what a GPU was recorded to do."""

import json

import pytest
from click.testing import CliRunner

from bench.autoscaler.calibrate import Figure
from bench.autoscaler.calibrate_gpu import compare, main
from bench.autoscaler.serving import Load, half_load
from bench.planner_serving import RECORD
from bench.serving.record import Record
from bench.serving.scenario import Workload
from tests.autoscaler.builders import SERVER

CHAT = Workload("chat", 256, 100)


@pytest.fixture(scope="module")
def found() -> dict[str, list[Figure]]:
    return compare(Record.read(RECORD))


@pytest.mark.parametrize(
    ("quantity", "most"),
    [
        ("step of decoding, ms", 0.05),
        ("prompts alone, tokens/s", 0.10),
        ("saturated: output, tokens/s", 0.20),
        ("saturated: cache in use", 0.05),
        ("half load: between tokens, p50, ms", 0.10),
        ("half load: first token, p50, ms", 0.30),
    ],
)
def test_most_figures_of_a_gpu_are_met(
    found: dict[str, list[Figure]], quantity: str, most: float
) -> None:
    errors = sorted(abs(figure.error) for figure in found[quantity])

    assert errors[len(errors) // 2] < most


def test_steps_of_a_record_that_nothing_is_fitted_to_are_met() -> None:
    found = compare(Record.read(RECORD.with_name("serving-h200-second.json")))

    errors = sorted(abs(figure.error) for figure in found["step of decoding, ms"])
    assert errors[len(errors) // 2] < 0.06


def test_all_engines_of_known_formats_are_compared(found: dict[str, list[Figure]]) -> None:
    runs = [run for run in Record.read(RECORD).runs if run["format"] != "int4_per_token_head"]
    measured = [cell for run in runs for cell in run["cells"] if "ms" in cell]

    assert len(found["step of decoding, ms"]) == len(measured)


def test_the_command_gives_the_errors() -> None:
    result = CliRunner().invoke(main, ["--json"])

    report = json.loads(result.stdout)["step of decoding, ms"]
    assert report["figures"] == len(report["all"])
    assert abs(report["worst_error"]) >= report["median_absolute_error"]


def test_whoever_is_answered_asks_again() -> None:
    load = Load(SERVER, CHAT, [0.1, 0.5, 0.9])

    load.go_on(20.0)

    assert len(load.jobs) > 6
    assert load.engine.outstanding == 3


def test_a_presumed_prompt_costs_nothing_and_the_next_one_its_time() -> None:
    seen = half_load(SERVER, CHAT, clients=1, seconds=20.0)

    assert seen.ttft_quantile(0.5) == pytest.approx(0.001 + 0.256, rel=0.01)
    assert seen.gap_quantile(0.5) == pytest.approx(0.010, rel=0.05)
    assert seen.rates.prompts == pytest.approx(256 / (0.257 + 0.99), rel=0.1)
