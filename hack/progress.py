"""One line for each step with the time that it took; a sign of life while a long one runs."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from rich.console import Console
from rich.status import Status
from rich.text import Text

SIGN_OF_LIFE_SECONDS = 15.0
"""How often a step that takes long says so where there is no terminal to draw on."""

console = Console(stderr=True, highlight=False)


@dataclass
class Step:
    """A step under way. Setting `detail` changes what is shown beside its name."""

    name: str
    detail: str = ""
    started: float = field(default_factory=time.monotonic)

    def line(self, mark: str, style: str = "") -> Text:
        """The step as shown now: mark, name, detail, seconds."""
        seconds = time.monotonic() - self.started
        detail = f"  {self.detail}" if self.detail else ""
        return Text.assemble((mark, style), f" {self.name}{detail}", (f"  {seconds:.1f} s", "dim"))


@contextmanager
def step(name: str) -> Iterator[Step]:
    """Report `name` as done or failed when the block ends, and as alive while it runs."""
    current = Step(name)
    over = threading.Event()
    with _drawing(current) as status:
        watcher = threading.Thread(target=_watch, args=(current, over, status), daemon=True)
        watcher.start()
        try:
            yield current
        except BaseException:
            console.print(current.line("✗", "bold red"))
            raise
        else:
            console.print(current.line("✓", "bold green"))
        finally:
            over.set()
            watcher.join()


def _drawing(current: Step) -> AbstractContextManager[Status | None]:
    return console.status(current.line("")) if console.is_terminal else nullcontext()


def _watch(current: Step, over: threading.Event, status: Status | None) -> None:
    while not over.wait(0.5 if status else SIGN_OF_LIFE_SECONDS):
        if status:
            status.update(current.line(""))
        else:
            console.print(current.line("…"))
