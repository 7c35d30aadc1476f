"""Real vLLMs for the tests, each imported once."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

import pytest

from tests.engine.lanes import RELEASES, ROOT, host_environment

ANSWER_SECONDS = 300
ANSWER_TOKENS = 40


class CallError(Exception):
    """What a call in the host raised."""


class Host:
    """The process of ``host.py``."""

    def __init__(self, line: Connection, process: subprocess.Popen[bytes], log: Path) -> None:
        self._line, self._process, self._log = line, process, log

    @property
    def log(self) -> str:
        """All that it has printed."""
        return self._log.read_text(errors="replace")

    def call(self, name: str, **arguments: Any) -> Any:
        """Result of a function of ``host.py``.

        Raises:
            CallError: the function raised.
        """
        self._line.send((name, arguments))
        if not self._line.poll(ANSWER_SECONDS):
            raise TimeoutError(f"{name} did not answer; its output is in {self._log}")
        fine, answer = self._line.recv()
        if not fine:
            raise CallError(answer)
        return answer


@pytest.fixture(scope="session", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """The release of vLLM that a test runs on: a test that asks for it runs on each."""
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="session")
def host(release: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    log = folder / "log"
    with Listener(str(folder / "socket")) as listener, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.host", str(listener.address)],
            cwd=ROOT,
            env=host_environment(release),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        with listener.accept() as line:
            yield Host(line, process, log)
        process.wait(60)


@pytest.fixture(scope="session")
def tiny_model(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Writes a small random model; arguments change its config. Equal ones give the same folder."""
    written: dict[str, str] = {}

    def write(**changes: Any) -> str:
        key = repr(sorted(changes.items()))
        if key not in written:
            written[key] = str(tmp_path_factory.mktemp("model"))
            host.call("write_model", folder=written[key], changes=changes)
        return written[key]

    return write


@pytest.fixture
def refusal(host: Host) -> Callable[..., str]:
    """What vLLM says instead of starting."""

    def refuse(model: str, *, gpu: tuple[int, int] | None = None, **options: Any) -> str:
        with pytest.raises(CallError) as caught:
            host.call("capacity", model=model, options=options, gpu=gpu)
        return str(caught.value)

    return refuse


@pytest.fixture(scope="session")
def generate(host: Host, tiny_model: Callable[..., str]) -> Callable[..., dict[str, Any]]:
    """Greedy tokens of a fresh engine; equal calls are answered from memory."""
    known: dict[str, dict[str, Any]] = {}

    def run(
        rounds: list[list[list[int]]],
        *,
        model: str | None = None,
        tokens: int = ANSWER_TOKENS,
        how: str = "generate",
        adapter: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        call = {
            "model": model or tiny_model(),
            "options": options,
            "rounds": rounds,
            "tokens": tokens,
            "adapter": adapter,
        }
        key = f"{how} {call}"
        if key not in known:
            known[key] = host.call(how, **call)
        return known[key]

    return run
