"""The comparison with real start-ups, on five of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import planner, planner_fit
from tests.planner.builders import CONFIGS

RECORDS = CONFIGS.parent / "vllm-startup.jsonl"
FILES = ("--records", str(RECORDS), "--models", str(CONFIGS))


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    result = CliRunner().invoke(planner.main, [*FILES, "--json"])
    assert result.exit_code == 0
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def test_tokens_follow_from_the_memory_within_one_percent(report: dict[str, Any]) -> None:
    """Four of the five: CodeLlama's config is not among the tests' data."""
    assert report["arithmetic"]["records"] == 4
    assert report["arithmetic"]["within_1"] == 1


def test_memory_follows_from_the_settings_within_five_percent(report: dict[str, Any]) -> None:
    assert report["settings"]["records"] == 4
    assert report["settings"]["within_5"] == 1


def test_a_start_that_failed_is_no_measurement(tmp_path: Path) -> None:
    lines = [json.loads(line) | {"error": "refused"} for line in RECORDS.read_text().splitlines()]
    path = tmp_path / "failed.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))

    result = CliRunner().invoke(planner.main, ["--records", str(path), *FILES[2:], "--json"])
    assert json.loads(result.stdout)["arithmetic"]["records"] == 0


def test_the_fit_prints_every_constant_beside_the_records() -> None:
    result = CliRunner().invoke(planner_fit.main, list(FILES))

    assert result.exit_code == 0
    assert "bytes per logit" in result.stdout
    assert "MiB outside PyTorch" in result.stdout
