"""`python -m bench.planner_serving`: plans beside what was served on a GPU."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.planner_serving import RECORDS, SLOWER, capacities, choices, main
from bench.serving.record import Record

MODELS, FORMATS = {"llama-3.1-8b", "qwen3-8b", "qwen3-32b"}, {"bf16", "fp8", "kvarn_k4v2_g128"}


def test_three_models_have_the_cache_that_was_planned() -> None:
    found = [each for file in RECORDS for each in capacities(Record.read(file))]

    assert {(each["model"], each["format"]) for each in found} >= {
        (model, name) for model in MODELS for name in FORMATS
    }
    assert max(abs(each["error"]) for each in found) < 0.025


def test_auto_chooses_what_was_fastest() -> None:
    cells = choices([Record.read(file) for file in RECORDS])
    judged = [cell["times"] for cell in cells if cell["times"]]

    assert len(cells) == 31
    assert len(judged) >= 29
    assert max(judged) <= SLOWER


def test_the_record_counts_that_tried_most_formats_and_of_those_the_newest() -> None:
    newest, *older = (choices([Record.read(file)]) for file in RECORDS)
    of = {(cell["model"], cell["sequences"], cell["context"]): cell for cell in newest}
    short, wide = ("llama-3.1-8b", 256, 1024), ("qwen3-32b", 64, 1024)

    found = {
        (cell["model"], cell["sequences"], cell["context"]): cell
        for cell in choices([Record.read(file) for file in RECORDS])
    }

    assert found[short] == of[short]
    assert wide not in of
    assert any(found[wide] in cells for cells in older)


def record(tmp_path: Path, **ms: float) -> str:
    """One cell, in which `auto` takes tiles."""
    runs: list[dict[str, Any]] = [
        {
            "model": "llama-3.1-8b",
            "format": name,
            "cells": [{"sequences": 64, "context": 8192, "ms": each}],
            "workloads": [],
        }
        for name, each in ms.items()
    ]
    file = tmp_path / "serving.json"
    file.write_text(json.dumps({"environment": {"device": "NVIDIA H200"}, "runs": runs}))
    return str(file)


@pytest.mark.parametrize(("ours", "status"), [(9.0, 0), (20.3, 0), (20.5, 1)])
def test_the_status_says_whether_a_choice_is_too_slow(
    tmp_path: Path, ours: float, status: int
) -> None:
    file = record(tmp_path, auto=20.0, kvarn_k4v2_g128=ours)
    result = CliRunner().invoke(main, [file, "--json"])

    assert result.exit_code == status
    (cell,) = json.loads(result.output)["choices"]
    assert cell["chosen"] == "kvarn_k4v2_g128"
    assert cell["times"] == pytest.approx(ours / min(ours, 20.0), abs=1e-3)


def test_a_choice_that_was_not_measured_is_none_that_holds(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [record(tmp_path, fp8=17.0)])

    assert result.exit_code == 1
    assert "not measured" in result.output


def test_a_record_of_an_unknown_gpu_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "serving.json"
    file.write_text(json.dumps({"environment": {"device": "H1000"}, "runs": []}))
    result = CliRunner().invoke(main, [str(file)])

    assert result.exit_code == 2
    assert "No GPU is known as H1000" in result.stderr
