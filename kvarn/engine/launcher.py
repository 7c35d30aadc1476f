"""What pods run: vLLM's own OpenAI server, with a termination message when it fails to start.

    python3 -m kvarn.engine.launcher --model /models/demo --kv-cache-dtype kvarn_k4v2_g128 …

Takes the options of ``vllm serve``. The server is a child process, so that whatever ends it, the
kernel included, is seen. Signals are passed on, until they are heard; vLLM drains by its
``--shutdown-timeout`` and ends once it has.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections import deque
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from typing import IO

from kvarn.engine.diagnosis import diagnose

MESSAGE_PATH_VARIABLE = "KVARN_TERMINATION_MESSAGE_PATH"
KUBELET_MESSAGE_PATH = Path("/dev/termination-log")

KEPT_LINES = 400
"""Lines of output that a diagnosis looks at; vLLM's longest traceback has under 200."""

REPEAT_SECONDS = 1
"""Time between two signals to a server that does not hear."""

LAST_OUTPUT_SECONDS = 5
"""How long the server's orphans may keep its output open."""

CPU_OPTIONS = {
    # Compiling for the processor takes minutes.
    "--enforce-eager": ["--enforce-eager"],
    # The engine's process computes, where it would start another one.
    "--distributed-executor-backend": ["--distributed-executor-backend", "uni"],
}

CPU_ENVIRONMENT = {
    # Without it, vLLM does not take the executor above on a CPU.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Threads cost more than they bring to small models, and spin against the event loop.
    "OMP_NUM_THREADS": "1",
    # Log-probabilities would be compiled at the first request that asks for them.
    "TORCHDYNAMO_DISABLE": "1",
}


def main() -> int:
    """Run the server until it ends.

    Returns:
        Its exit status; 128 plus the signal when one ended it.
    """
    server = subprocess.Popen(
        [sys.executable, "-m", "kvarn.engine.server", *server_arguments(sys.argv[1:])],
        env=server_environment(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    told_to_stop = _forward_signals(server, port=_port(sys.argv[1:]))
    lines: deque[bytes] = deque(maxlen=KEPT_LINES)
    assert server.stdout is not None  # noqa: S101 (for the type checker: it is a pipe)
    reader = Thread(target=_pass_on, args=(server.stdout, lines), daemon=True)
    reader.start()
    code = server.wait()
    reader.join(LAST_OUTPUT_SECONDS)
    _end_orphans(server.pid)
    if code != 0 and not told_to_stop:
        _leave_message(b"".join(lines).decode(errors="replace"), code)
    return code if code >= 0 else 128 - code


def server_arguments(given: Sequence[str]) -> list[str]:
    """Options of the server: those given, and on a CPU those that make it start quickly."""
    if not on_cpu():
        return list(given)
    stated = {option.split("=")[0] for option in given}
    return [
        *given,
        *(part for name in CPU_OPTIONS if name not in stated for part in CPU_OPTIONS[name]),
    ]


def server_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Environment of the server: the given one, and what it leaves open.

    A container's user has no name, and no home but ``/tmp``.
    """
    home = given.get("HOME", "/")
    defaults = {
        "USER": "kvarn",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONUNBUFFERED": "1",
        **(CPU_ENVIRONMENT if on_cpu() else {}),
    }
    writable = {} if os.access(home, os.W_OK) else {"HOME": "/tmp"}  # noqa: S108 (pods have it)
    return {**defaults, **given, **writable}


def on_cpu() -> bool:
    """Whether the vLLM that is installed is built for CPUs, without importing it."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        return True


def _port(arguments: Sequence[str]) -> int:
    """The port that the server will listen on."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--port", type=int, default=8000)
    return int(parser.parse_known_args(arguments)[0].port)


def _forward_signals(server: subprocess.Popen[bytes], *, port: int) -> list[int]:
    """Pass signals on; the list that is returned collects them."""
    received: list[int] = []

    def forward(number: int, _frame: object) -> None:
        if not received and not _listens(port):
            Thread(target=_insist, args=(server, number, port), daemon=True).start()
        received.append(number)
        server.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    return received


def _insist(server: subprocess.Popen[bytes], number: int, port: int) -> None:
    """Repeat a signal until the server ends or listens: vLLM may lose one while it loads."""
    listens = False
    while not listens and server.poll() is None:
        time.sleep(REPEAT_SECONDS)
        listens = _listens(port)
        server.send_signal(number)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _pass_on(output: IO[bytes], lines: deque[bytes]) -> None:
    for line in output:
        lines.append(line)
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def _end_orphans(group: int) -> None:
    """A server that was killed leaves its engine behind."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _leave_message(output: str, code: int) -> None:
    failure = diagnose(output, code)
    sys.stderr.write(f"{failure.reason}: {failure.message}\n")
    path = message_path(os.environ)
    if path is None:
        return
    try:
        path.write_text(failure.to_json(), encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"The termination message could not be written: {error}\n")


def message_path(environment: Mapping[str, str]) -> Path | None:
    """Where the termination message goes; nowhere outside of a pod, unless the variable says."""
    if named := environment.get(MESSAGE_PATH_VARIABLE):
        return Path(named)
    return KUBELET_MESSAGE_PATH if KUBELET_MESSAGE_PATH.exists() else None


if __name__ == "__main__":
    sys.exit(main())
