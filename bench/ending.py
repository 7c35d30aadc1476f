"""How a benchmark that is told to end takes with it what it has started."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any


def unwind_on_sigterm() -> None:
    """Let SIGTERM leave by the way of exceptions, which ends engines on the way."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let SIGTERM wait for the end of the block: what starts in it is then known to who ends it."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        for number in received[:1]:
            signal.raise_signal(number)


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """Run a command in a session of its own, of which nothing is left after the block.

    A signal to the first process alone would leave an engine running, and its device full.

    Args:
        command: program and arguments.
        options: more arguments of `subprocess.Popen`.
    """
    with ExitStack() as ending:
        with uninterrupted():
            process = subprocess.Popen(
                command, start_new_session=True, text=True, errors="replace", **options
            )
            ending.enter_context(process)
            ending.callback(end, process)
        yield process


def end(process: "subprocess.Popen[str]") -> None:
    """Kill a process that has a session of its own, and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
