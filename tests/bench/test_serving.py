"""`python -m bench.serving`: what is asked, what is kept, and what follows from it."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.serving import process
from bench.serving.__main__ import main, scenario_of, shape_name
from bench.serving.process import FailedError
from bench.serving.record import Record, burst_times, fastest, goals
from bench.serving.report import line, tables
from bench.serving.scenario import CELLS, REFERENCE, WORKLOADS, Cell, Scenario, Workload
from hack.errors import Refusal

ENVIRONMENT = {
    "device": "H200",
    "host": "first",
    "vllm": "0.33.0",
    "torch": "2.11",
    "triton": "3.6",
    "kvarn": "1",
}
NOTHING = Scenario(cells=[], prefill=True, workloads=[], seconds=1.0)


def scenario(**changes: Any) -> Scenario:
    asked: dict[str, Any] = {"cells": None, "workloads": (), "seconds": None, "quick": False}
    return scenario_of(**asked | {"prefill": True, "engine": ()} | changes)


def load(tokens_per_second: float) -> dict[str, Any]:
    latency = {"p50": 1.0, "p99": 2.0, "count": 3}
    return {
        "clients": 8,
        "output_tokens_per_second": tokens_per_second,
        "preemptions": 0,
        "first_token_ms": {},
        "inter_token_ms": latency,
    }


def pieces(*, ms: float, tokens_per_second: float) -> list[dict[str, Any]]:
    facts = {"cache_tokens": 1000, "max_model_len": 100, "sequences_at_once": 10.0}
    served = {"saturated": load(tokens_per_second), "half_load": load(tokens_per_second / 2)}
    return [
        {"kind": "environment", **ENVIRONMENT},
        {"kind": "engine", **facts},
        {"kind": "cell", "sequences": 64, "context": 8192, "ms": ms},
        {"kind": "cell", "sequences": 256, "context": 32768, "skipped": "too large"},
        {"kind": "workload", "name": "burst", **served},
        {"kind": "check", "finite": True},
        {"kind": "end", "seconds": 1.0},
    ]


def recorded(**speeds: tuple[float, float]) -> Record:
    record = Record({}, [])
    for name, (ms, tokens_per_second) in speeds.items():
        run = record.run("llama-3.1-8b", name)
        for piece in pieces(ms=ms, tokens_per_second=tokens_per_second):
            record.add(run, piece)
    return record


def met(record: Record) -> dict[str, bool | None]:
    return {each["goal"]: each["met"] for each in goals(record.runs)}


def test_by_default_every_cell_and_workload_is_measured_the_goals_cell_first() -> None:
    whole = scenario()

    assert (len(set(CELLS)), whole.cells[0], len(whole.workloads)) == (12, REFERENCE, 3)
    assert whole.longest_tokens >= 32_768 + 512


def test_quick_is_the_goals_cell_and_workload_unless_others_are_named() -> None:
    quick, chat = scenario(quick=True), scenario(quick=True, workloads=("chat",), cells="8x1k")

    assert (quick.cells, quick.workloads) == ([REFERENCE], [WORKLOADS["burst"]])
    assert (chat.cells, chat.workloads) == ([Cell(8, 1024)], [WORKLOADS["chat"]])


def test_a_scenario_reaches_another_process_whole() -> None:
    sent = scenario(cells="2x128,4x1k", workloads=("64+32",), engine=("max_num_seqs=4",))

    assert Scenario.from_dict(json.loads(json.dumps(sent.to_dict()))) == sent
    assert sent.workloads == [Workload("64+32", 64, 32)]
    assert sent.engine == {"max_num_seqs": 4}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cells": "64"}, "as in 64x8k"),
        ({"cells": "64x100"}, "multiple of 128"),
        ({"workloads": ("poetry",)}, "burst, documents, chat"),
        ({"workloads": ("128+1",)}, "IN\\+OUT"),
        ({"engine": ("max_num_seqs",)}, "max_num_seqs=64"),
        ({"cells": "none", "workloads": ("none",)}, "Nothing is left"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_sentence(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refusal, match=words):
        scenario(**options)


def test_a_model_that_is_not_there_is_refused() -> None:
    result = CliRunner().invoke(main, ["--model", "gpt-9"])

    assert (result.exit_code, "llama-3.1-8b" in result.output) == (2, True)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "shapes/llama-3.1-8b.json", "llama-3.1-8b/"])
def test_a_shape_keeps_the_dots_of_its_name(model: str) -> None:
    assert shape_name(model) == "llama-3.1-8b"


def test_goals_are_met_by_what_is_fast_enough() -> None:
    fast = recorded(auto=(20.4, 3000), fp8=(17.0, 4200), kvarn_k4v2_g128=(9.4, 7600))
    slow = recorded(auto=(20.4, 3000), fp8=(17.0, 4300), kvarn_k4v2_g128=(9.6, 7400))

    assert set(met(fast).values()) == {True}
    assert set(met(slow).values()) == {False}


def test_without_the_rival_a_goal_is_neither_met_nor_missed() -> None:
    alone = met(recorded(kvarn_k4v2_g128=(9.0, 7000)))

    assert alone == {"step_ms": True, "burst_times_auto": None, "burst_times_fp8": None}


def test_no_goal_is_met_by_answers_that_are_not_finite() -> None:
    record = recorded(auto=(20.4, 3000), kvarn_k4v2_g128=(9.0, 9000))
    record.add(record.runs[1], {"kind": "check", "finite": False})

    assert met(record) == {"step_ms": False, "burst_times_auto": False, "burst_times_fp8": None}


def test_the_fastest_format_of_each_cell_is_named() -> None:
    cells = list(fastest(recorded(auto=(20.0, 1), fp8=(17.0, 1)).runs))

    assert [cell["format"] for cell in cells] == ["fp8", None]
    assert cells[0]["ms"] == {"auto": 20.0, "fp8": 17.0}


def test_a_record_grows_over_several_commands(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(recorded(auto=(20.0, 1000)).to_json())
    record = Record.read(path)
    ours = record.run("llama-3.1-8b", "kvarn_k4v2_g128")
    for piece in pieces(ms=8.0, tokens_per_second=3000):
        record.add(ours, piece)
        record.add(ours, piece)

    assert burst_times(record.runs, ours, "auto") == 3.0
    assert [len(run["cells"]) for run in record.runs] == [2, 2]


def test_commands_that_run_at_once_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    ours, theirs = recorded(kvarn_k4v2_g128=(9.0, 2500)), recorded(auto=(20.0, 1000))
    for record in (ours, theirs, ours):
        record.keep(path, record.runs[-1 if record is theirs else 0])
    kept = Record.read(path)
    assert [run["format"] for run in kept.runs] == ["auto", "kvarn_k4v2_g128"]
    assert burst_times(kept.runs, kept.runs[1], "auto") == 2.5


def test_a_run_that_failed_at_once_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    path.write_text(recorded(auto=(20.0, 1000)).to_json())
    record = Record({}, [])
    run = record.run("llama-3.1-8b", "fp8")
    run["failed"] = {"message": "no GPU"}
    record.keep(path, run)
    assert Record.read(path).environment == ENVIRONMENT
    assert [run["format"] for run in Record.read(path).runs] == ["auto", "fp8"]


@pytest.mark.parametrize("other", [{"device": "B200"}, {"host": "second"}])
def test_figures_of_another_device_do_not_join(other: dict[str, str]) -> None:
    record = recorded(auto=(20.0, 1000))

    with pytest.raises(Refusal, match="another file"):
        record.add(record.runs[0], {"kind": "environment", **ENVIRONMENT, **other})


def test_figures_do_not_join_those_of_an_unknown_host() -> None:
    record = recorded(auto=(20.0, 1000))
    del record.environment["host"]

    with pytest.raises(Refusal, match="host unknown"):
        record.add(record.runs[0], {"kind": "environment", **ENVIRONMENT})


@pytest.mark.parametrize("text", ["", "[]", '{"runs": 1}'])
def test_what_is_no_record_is_not_written_over(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "notes.json").write_text(text)

    result = CliRunner().invoke(main, ["--quick", "--json", str(path)])

    assert (result.exit_code, path.read_text()) == (2, text)


def test_tables_show_what_failed_and_what_was_skipped() -> None:
    record = recorded(auto=(20.0, 1000), kvarn_k4v2_g128=(8.0, 3000))
    record.run("llama-3.1-8b", "fp8")["failed"] = {"message": "no FlashAttention"}

    assert len(list(tables(record))) == 4
    assert "too large" in line(pieces(ms=1.0, tokens_per_second=1.0)[3])


def run_child(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, *, seconds: float = 60.0
) -> list[dict[str, Any]]:
    """Pieces of a child that runs a program of ours instead."""
    monkeypatch.setattr(process, "CHILD", (sys.executable, "-c", program))
    log = tmp_path / "log"
    return list(process.measured(tmp_path, "auto", NOTHING, log=log, limit_seconds=seconds))


def test_a_child_that_fails_says_why_and_not_what_followed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = (
        "print('ValueError: no such format\\nEngineDeadError: see above'); raise SystemExit(1)"
    )

    with pytest.raises(FailedError, match="no such format"):
        run_child(monkeypatch, tmp_path, program)


def test_a_child_that_takes_too_long_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(FailedError, match="--limit"):
        run_child(monkeypatch, tmp_path, "import time; time.sleep(60)", seconds=0.5)


def test_nothing_of_a_child_is_left_when_it_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The engine's own process would keep the device's memory."""
    program = (
        "import os, subprocess\n"
        "left = subprocess.Popen(['sleep', '60'])\n"
        'print(f\'some words MEASURED {{"kind": "end", "left": {left.pid}}}\', flush=True)\n'
        "left.wait()"
    )

    (piece,) = run_child(monkeypatch, tmp_path, program)

    deadline = time.monotonic() + 10
    while runs(piece["left"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(piece["left"])
    assert (tmp_path / "log").read_text() == "some words "


def runs(pid: int) -> bool:
    """Whether a process runs; one that only waits to be noticed does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_without_an_nvidia_device_no_memory_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)

    assert process.wait_until_free()
