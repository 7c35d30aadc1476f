"""Runs one model and format in a process group that leaves nothing behind on the device."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.ending import end, started
from bench.serving.scenario import Scenario
from kvarn.engine.diagnosis import diagnose

ROOT = Path(__file__).parents[2]
CHILD = (sys.executable, "-m", "bench.serving.child")
MARK = "MEASURED "
"""Before each piece, on the line that the child prints it on."""
AFTERMATH = "EngineDeadError"
"""What a client sees when the engine has failed for another reason."""
TAIL_CHARACTERS = 20_000
FREE_SECONDS = 60.0
LEFT_MIB = 1024
"""Device memory in use that a start does not mind."""


class FailedError(Exception):
    """A run that did not get to its end; the message says why."""


def measured(
    model: Path, cache_format: str, scenario: Scenario, *, log: Path, limit_seconds: float
) -> Iterator[dict[str, Any]]:
    """Each piece as it is measured; the group of processes is gone when this ends.

    Args:
        model: folder with a ``config.json``.
        cache_format: vLLM's ``--kv-cache-dtype``.
        scenario: what to measure.
        log: where all that is printed goes.
        limit_seconds: after which the run is ended.

    Raises:
        FailedError: there is no end; pieces that came before it hold.
    """
    given = {"model": str(model), "format": cache_format, "scenario": scenario.to_dict()}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with started(CHILD, cwd=ROOT, **pipes) as process:
        late = threading.Event()
        timer = threading.Timer(limit_seconds, _end_late, [process, late])
        timer.start()
        try:
            yield from _pieces(process, json.dumps(given), log)
        except FailedError:
            if late.is_set():
                raise FailedError(
                    f"It was not done after {limit_seconds:.0f} s; raise --limit or measure less."
                ) from None
            raise
        finally:
            timer.cancel()


def _pieces(process: "subprocess.Popen[str]", given: str, log: Path) -> Iterator[dict[str, Any]]:
    assert process.stdin
    assert process.stdout
    with suppress(BrokenPipeError):  # it failed at once, and its output says why
        process.stdin.write(given)
        process.stdin.close()
    with log.open("w", buffering=1) as output:
        for line in process.stdout:
            printed, mark, text = line.partition(MARK)
            output.write(printed)
            if not mark:
                continue
            piece: dict[str, Any] = json.loads(text)
            yield piece
            if piece["kind"] == "end":
                return
    raise FailedError(_cause(log, process.wait()))


def _end_late(process: "subprocess.Popen[str]", late: threading.Event) -> None:
    late.set()
    end(process)


def _cause(log: Path, code: int) -> str:
    lines = log.read_text(errors="replace").splitlines()
    tail = "\n".join(line for line in lines if AFTERMATH not in line)[-TAIL_CHARACTERS:]
    return diagnose(tail, code).message


def wait_until_free() -> bool:
    """Wait until the NVIDIA devices that are ours have their memory back; whether they have."""
    deadline = time.monotonic() + FREE_SECONDS
    while (used := _used_mib()) > LEFT_MIB and time.monotonic() < deadline:
        time.sleep(0.5)
    return used <= LEFT_MIB


def _used_mib() -> int:
    """Memory in use on the fullest device; 0 without one. CUDA itself would take some."""
    if not shutil.which("nvidia-smi"):
        return 0
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    if ours := os.environ.get("CUDA_VISIBLE_DEVICES"):
        query.append(f"--id={ours}")
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return max((int(line) for line in done.stdout.split() if line.isdigit()), default=0)
