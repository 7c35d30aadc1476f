"""The inspection Job: a shape on standard output and in the termination message."""

import json
from pathlib import Path

import pytest

from kvarn.planner import ModelShape
from kvarn.planner.inspect import MESSAGE_VARIABLE, main
from tests.planner.builders import config_path, real_shape


@pytest.fixture
def message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.setenv(MESSAGE_VARIABLE, str(path))
    return path


def test_the_shape_is_printed_and_left_as_message(
    message: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(config_path("Qwen3-8B"))]) == 0

    printed = capsys.readouterr().out
    assert ModelShape.from_dict(json.loads(printed)) == real_shape("Qwen3-8B")
    assert json.loads(message.read_text()) == json.loads(printed)


def test_a_reason_is_left_where_there_is_no_shape(message: Path) -> None:
    assert main(["/nowhere"]) == 1

    left = json.loads(message.read_text())
    assert left["reason"] == "UnknownModel"
    assert "/nowhere" in left["message"]


def test_without_a_message_file_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MESSAGE_VARIABLE, str(tmp_path / "absent"))

    assert main([str(config_path("Qwen3-8B"))]) == 0
    assert not (tmp_path / "absent").exists()


def test_a_message_fits_where_kubernetes_keeps_it(message: Path) -> None:
    """The kubelet keeps 4,096 bytes of a termination message."""
    main([str(config_path("gemma-3-1b-it"))])

    assert len(message.read_bytes()) < 4096


def test_without_a_source_it_says_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "SOURCE" in capsys.readouterr().err
