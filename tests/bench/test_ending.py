"""A benchmark that is told to end takes with it all that it has started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.engine.lanes import ROOT

SERVER = """\
#!/bin/sh
sleep 300 &
echo $$ $! > "$PIDS.new"
mv "$PIDS.new" "$PIDS"
wait
"""
"""In place of a Python that runs vLLM: a process, and one that this has started."""
CODE = """
import sys
sys.executable = {server!r}
from bench.{module} import main
main({arguments!r})
"""
PATIENCE_SECONDS = 60


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("exactness.__main__", ["raw"]),
        ("startup", ["bench/models/qwen3-8b.json", "--gpu", "H200", "--format", "bf16"]),
        ("serving.__main__", ["--model", "qwen3-8b", "--format", "auto"]),
    ],
)
def test_sigterm_leaves_no_engine_behind(tmp_path: Path, module: str, arguments: list[str]) -> None:
    server, pids = tmp_path / "server", tmp_path / "pids"
    server.write_text(SERVER)
    server.chmod(0o755)
    code = CODE.format(module=module, server=str(server), arguments=arguments)
    bench = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PIDS": str(pids)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(pids.exists)
        bench.send_signal(signal.SIGTERM)

        assert bench.wait(PATIENCE_SECONDS) == 128 + signal.SIGTERM
        wait_for(lambda: not any(map(is_running, pids.read_text().split())))
    finally:
        bench.kill()
        bench.communicate()
        for pid in pids.read_text().split() if pids.exists() else ():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def is_running(pid: str) -> bool:
    """Whether there is such a process, and it is no zombie."""
    with suppress(FileNotFoundError):
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(holds: Callable[[], bool]) -> None:
    """Wait until something holds.

    Raises:
        TimeoutError: it never did.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)
