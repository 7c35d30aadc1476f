"""What the launcher makes of its options and its environment, before anything starts."""

from pathlib import Path

import pytest

from kvarn.engine.launcher import message_path, server_arguments, server_environment
from kvarn.engine.versions import why_unsupported


def test_on_a_cpu_the_server_starts_eagerly_in_one_engine_process() -> None:
    assert server_arguments(["--model", "m"]) == [
        *("--model", "m", "--enforce-eager"),
        *("--distributed-executor-backend", "uni"),
    ]


def test_an_option_that_is_given_is_left_alone() -> None:
    given = ["--distributed-executor-backend=mp", "--enforce-eager"]
    assert server_arguments(given) == given


def test_a_variable_that_is_given_is_left_alone() -> None:
    environment = server_environment({"HOME": "/tmp", "OMP_NUM_THREADS": "4"})
    assert environment["OMP_NUM_THREADS"] == "4"
    assert environment["TORCHDYNAMO_DISABLE"] == "1"


def test_a_user_without_a_home_gets_the_writable_one(tmp_path: Path) -> None:
    assert server_environment({"HOME": "/nonexistent"})["HOME"] == "/tmp"
    assert server_environment({"HOME": str(tmp_path)})["HOME"] == str(tmp_path)


def test_outside_of_a_pod_no_message_is_written_unless_asked_for(tmp_path: Path) -> None:
    named = {"KVARN_TERMINATION_MESSAGE_PATH": str(tmp_path / "log")}
    assert message_path(named) == tmp_path / "log"
    assert message_path({}) is None


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1+cpu", "0.33.0"])
def test_known_releases(version: str) -> None:
    assert why_unsupported(version) is None


@pytest.mark.parametrize("version", ["0.31.2", "0.34.0rc1", "1.0.0", "0.3.2"])
def test_other_releases_are_refused_naming_those_that_are_known(version: str) -> None:
    reason = why_unsupported(version)
    assert reason == f"vLLM {version} is not supported; install vLLM 0.32 or 0.33."
