"""How a benchmark that is told to end takes with it what it has started."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
