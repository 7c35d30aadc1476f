"""A server behind the launcher, as a pod would run it."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.engine.lanes import ROOT, environment

START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool], *, seconds: float) -> None:
    """Wait for a condition; fail after a while."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{condition} took more than {seconds} s"
        time.sleep(0.05)


@dataclass
class Launched:
    """A launcher's process and what it leaves behind.

    Attributes:
        process: the launcher.
        url: of the server.
        log: what it prints.
        message: the file of the termination message.
    """

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    message: Path

    def wait_until_ready(self) -> None:
        """Return when the server is healthy; fail when it ends or takes too long."""
        until(self._healthy, seconds=START_SECONDS)

    def _healthy(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/health").is_success
        return False


def metric(client: httpx.Client, name: str) -> float:
    """A metric's value, as the server gives it now."""
    lines = client.get("/metrics").text.splitlines()
    line = next(line for line in lines if line.startswith(f"{name}{{"))
    return float(line.split()[-1])


@contextmanager
def launched(release: str, folder: Path, model: str, *options: str) -> Iterator[Launched]:
    """Start the launcher with the options that the operator gives, and end it at the end."""
    port, message = free_port(), folder / "termination-log"
    message.touch()
    log = folder / "log"
    command = [
        *(sys.executable, "-m", "kvarn.engine.launcher", "--model", model),
        *("--served-model-name", "demo", "--host", "127.0.0.1", "--port", str(port)),
        *("--kv-cache-dtype", "kvarn_k4v2_g128", "--max-num-seqs", "8"),
        *("--max-num-batched-tokens", "512", *options),
    ]
    variables = environment(release) | {"KVARN_TERMINATION_MESSAGE_PATH": str(message)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Launched(process, f"http://127.0.0.1:{port}", log, message)
    finally:
        process.terminate()
        process.wait(START_SECONDS)
