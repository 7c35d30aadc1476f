"""A vLLM server of this machine's own, behind the launcher that pods run."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from hack.errors import Refusal

ROOT = Path(__file__).parents[2]
START_SECONDS = 180.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.2


@contextmanager
def served(model: Path, *options: str) -> Iterator[str]:
    """Serve `model` on the CPU while the context lasts; gives the server's URL.

    Raises:
        Refusal: it does not start; its last lines say why.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "kvarn.engine.launcher", "--model", str(model)),
        *("--served-model-name", "demo", "--host", "127.0.0.1", "--port", str(port), *options),
    ]
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        environment = os.environ | {"KVARN_TERMINATION_MESSAGE_PATH": f"{folder}/message"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            _wait_until_ready(process, url, log)
            yield url
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/health").is_success:
                return
        time.sleep(POLL_SECONDS)
    raise Refusal(f"The server did not start: {log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
