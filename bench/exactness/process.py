"""Runs parts side by side, each in a process group that leaves nothing behind on the device."""

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from bench.ending import end, uninterrupted
from bench.exactness.verdict import Verdict
from kvarn.engine.diagnosis import diagnose

ROOT = Path(__file__).parents[2]
MARK = "VERDICT "
"""Before each verdict, on the line that the child prints it on."""
KEPT_LINES = 400
INVARIANT = ("deep", "shallow")
"""Parts under ``VLLM_BATCH_INVARIANT=1``."""


class _Part:
    """A child that runs one part, and the time by which its next verdict must be there."""

    def __init__(self, name: str, news: "Queue[tuple[_Part, Verdict | None]]") -> None:
        self.name, self.deadline = name, 0.0
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        # A session of its own: whatever the child starts ends with it.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.exactness.child", name],
            cwd=ROOT,
            env=os.environ
            | {
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_BATCH_INVARIANT": str(int(name in INVARIANT)),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
        )
        Thread(target=self._read, args=(news,), daemon=True).start()

    def _read(self, news: "Queue[tuple[_Part, Verdict | None]]") -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            printed, mark, text = line.partition(MARK)
            self._lines.append(printed)
            if mark:
                news.put((self, Verdict(**json.loads(text))))
        news.put((self, None))

    def why_failed(self) -> str | None:
        """What went wrong, once the child has ended; None if nothing did."""
        code = self._process.wait()
        return diagnose("".join(self._lines), code).message if code else None

    def end(self) -> None:
        """End the child and all that it has started."""
        end(self._process)
        self._process.wait()


def run(
    parts: Sequence[str], *, limit_seconds: float
) -> Generator[tuple[str, Verdict | str], None, None]:
    """Verdicts of all parts as they come, and why a part ended before its last one.

    Closing it ends the parts.

    Args:
        parts: names.
        limit_seconds: for the start of an engine and the runs in it, from one verdict to the next.
    """
    news: Queue[tuple[_Part, Verdict | None]] = Queue()
    running: list[_Part] = []
    try:
        for name in parts:
            with uninterrupted():
                running.append(_Part(name, news))
            running[-1].deadline = time.monotonic() + limit_seconds
        while running:
            soonest = min(running, key=lambda part: part.deadline)
            try:
                part, verdict = news.get(timeout=max(0.0, soonest.deadline - time.monotonic()))
            except Empty:
                soonest.end()
                running.remove(soonest)
                yield soonest.name, f"An engine was not done after {limit_seconds:.0f} s."
                continue
            if part not in running:
                continue
            part.deadline = time.monotonic() + limit_seconds
            if verdict:
                yield part.name, verdict
                continue
            running.remove(part)
            if reason := part.why_failed():
                yield part.name, reason
    finally:
        for part in running:
            part.end()
