"""The comparison with real start-ups, on nine of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench import planner, planner_fit
from bench.planner_records import load_configs, read_start
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
    found = report["cache_arithmetic"]["kvarn"]

    assert (found["records"], found["within_1"]) == (8, 1)


def test_memory_and_tokens_follow_from_the_settings(report: dict[str, Any]) -> None:
    for name in ("settings_memory", "settings_tokens"):
        assert report[name]["kvarn"]["records"] == 8
        assert report[name]["kvarn"]["within_5"] == 1


def test_rivals_are_measured_on_the_same_rows(report: dict[str, Any]) -> None:
    for name in ("cache_arithmetic", "settings_memory", "settings_tokens"):
        assert len({report[name][sizer]["records"] for sizer in planner.SIZERS}) == 1


def test_a_start_that_ran_is_no_failure(report: dict[str, Any]) -> None:
    assert report["failures"]["kvarn"]["ran"] == 8
    assert report["failures"]["kvarn"]["false"] == 0


def test_a_start_whose_cache_cannot_hold_one_request_is_foretold(tmp_path: Path) -> None:
    refused = {"error": "refused", "available_kv_gib": None, "gpu_memory_utilization": 0.1}
    found = measured(tmp_path, **refused)["failures"]["kvarn"]

    assert (found["records"], found["predicted"]) == (8, 8)


def test_a_variant_is_read_by_what_its_name_says_of_its_weights(tmp_path: Path) -> None:
    """Real starts of such weights show 5.38 GiB."""
    configs = load_configs(CONFIGS)
    record = json.loads(RECORDS.read_text().splitlines()[0])
    name = "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16"

    start = read_start(record | {"model": name, "weight_dtype": "gptq_marlin"}, configs)
    assert start
    assert start.shape.weight_bytes / 2**30 == pytest.approx(5.38, rel=0.02)


def measured(folder: Path, **changes: Any) -> dict[str, Any]:
    """The report on the records with some of their fields changed."""
    lines = [json.loads(line) | changes for line in RECORDS.read_text().splitlines()]
    path = folder / "records.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    result = CliRunner().invoke(planner.main, ["--records", str(path), *FILES[2:], "--json"])
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def test_the_text_names_every_class_and_sizer() -> None:
    lines = CliRunner().invoke(planner.main, FILES).stdout

    for name in ("cache arithmetic", "failures", "kvarn", "aiconfigurator"):
        assert name in lines


def test_the_fit_prints_constants_beside_the_records_and_forecasts_what_was_left_out() -> None:
    result = CliRunner().invoke(planner_fit.main, list(FILES))

    assert result.exit_code == 0
    assert "sampler_bytes" in result.stdout
    assert "one source left out, settings_memory" in result.stdout
