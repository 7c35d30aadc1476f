"""`python -m bench.roofline_fit`: constants of the roofline from steps on a GPU."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.planner_serving import RECORD, RESULTS
from bench.roofline_fit import fitted, main, standing, steps
from bench.serving.record import Record
from kvarn.planner import Accelerator


def test_the_constants_that_made_steps_are_found_again() -> None:
    truth = standing(Accelerator.find("H200")) | {"weight_share": 0.7, "fp8 seconds": 9e-6}
    made = [replace(step, seconds=step.predicted(truth)) for step in steps(Record.read(RECORD))]
    start = {name: 0.8 * constant for name, constant in truth.items()}

    assert fitted(made, start) == pytest.approx(truth, rel=1e-3)


def test_the_constants_stand_near_what_the_record_says() -> None:
    result = CliRunner().invoke(main, ["--json"])

    assert result.exit_code == 0
    found = json.loads(result.output)
    assert found["steps"] == 63
    stand, best = found["errors"]["stand"], found["errors"]["fitted"]
    assert stand["median"] < 1.15 * best["median"]
    assert stand["median"] < 0.02
    stand, best = found["paces"]["stand"], found["paces"]["fitted"]
    assert stand == pytest.approx(best, abs=0.01)


def test_a_record_that_does_not_tell_the_constants_apart_only_tests_those_that_stand() -> None:
    result = CliRunner().invoke(main, [str(RESULTS / "serving-h200-second.json"), "--json"])

    assert result.exit_code == 0
    assert "lacks steps that tell the constants apart" in result.stderr
    found = json.loads(result.stdout)
    assert found["constants"].keys() == found["errors"].keys() == {"stand"}
    assert found["errors"]["stand"]["median"] < 0.03


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "names no device"),
        ({"device": "H1000"}, "No GPU is known as H1000"),
        ({"device": "H200"}, "has no steps in"),
    ],
)
def test_a_record_without_steps_is_refused(
    tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    file = tmp_path / "serving.json"
    file.write_text(json.dumps({"environment": environment, "runs": []}))
    result = CliRunner().invoke(main, [str(file)])

    assert result.exit_code == 2
    assert words in result.stderr


def test_a_table_shows_both() -> None:
    result = CliRunner().invoke(main)

    assert result.exit_code == 0
    assert "weight_share" in result.output
    assert "256x1024" in result.output
