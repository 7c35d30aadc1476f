"""What the benchmarks refuse, they refuse in a sentence."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bench import capacity, planner, planner_fit, startup
from bench.autoscaler import __main__ as autoscaler
from bench.autoscaler import calibrate_gpu
from bench.exactness import __main__ as exactness
from bench.formats import __main__ as formats
from bench.serving import __main__ as serving
from tests.planner.builders import CONFIGS

RECORDS = CONFIGS.parent / "vllm-startup.jsonl"
CONFIG = str(capacity.SHAPES[0])


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (startup.main, (CONFIG, "--gpu", "nope"), "No GPU is known as nope"),
        (startup.main, (str(RECORDS), "--gpu", "H100"), "holds no JSON"),
        (startup.main, (CONFIG, "--gpu", "H100", "--max-num-seqs", "0"), "not in the range"),
        (capacity.main, (str(RECORDS),), "holds no JSON"),
        (formats.main, ("--model", "/nowhere"), "No model lies in /nowhere: run"),
        (
            autoscaler.main,
            ("--trace", str(RECORDS), "--format", "azure", "--hours", "0"),
            "'--hours': 0.0 is not in the range x>0",
        ),
        *(
            (
                autoscaler.main,
                ("--trace", str(RECORDS), "--format", "azure", option, number),
                f"'{option}': {number} is no finite number",
            )
            for option in ("--hours", "--rate", "--startup-seconds", "--ttft-seconds")
            for number in ("nan", "inf")
        ),
        (serving.main, ("--seconds", "nan"), "'--seconds': nan is no finite number"),
        (exactness.main, ("--limit", "nan"), "'--limit': nan is no finite number"),
        (calibrate_gpu.main, (str(RECORDS.parent),), "is no record of this benchmark"),
        (serving.main, ("--limit", "0"), "'--limit': 0.0 is not in the range x>0"),
    ],
)
def test_an_argument_that_will_not_do(
    command: click.Command, arguments: tuple[str, ...], words: str
) -> None:
    said_of(command, *arguments, words=words)


@pytest.mark.parametrize("command", [planner.main, planner_fit.main])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("start", "is not JSON line by line"),
        ("[]", "line 1, is no start-up: it lacks id, "),
        ("{}", "line 1, is no start-up: it lacks id, "),
        (
            "\n".join(
                json.dumps({name: row[name] for name in row if name != "tp"})
                for row in map(json.loads, RECORDS.read_text().splitlines())
            ),
            "line 1, is no start-up: it lacks tp.",
        ),
    ],
    ids=["no JSON", "a list", "an empty object", "no devices"],
)
def test_records_that_are_none(
    tmp_path: Path, command: click.Command, text: str, words: str
) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(text)
    said_of(command, "--records", str(file), "--models", str(CONFIGS), words=words)


@pytest.mark.parametrize("command", [planner.main, planner_fit.main])
def test_a_models_config_that_is_none(tmp_path: Path, command: click.Command) -> None:
    (tmp_path / "org__name.json").write_text("[]")
    said_of(
        command,
        *("--records", str(RECORDS), "--models", str(tmp_path)),
        words="org__name.json holds no JSON object",
    )


def said_of(command: click.Command, *arguments: str, words: str) -> None:
    result = CliRunner().invoke(command, arguments)

    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
