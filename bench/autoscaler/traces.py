"""Readers of request traces; each gives requests in order of arrival, from second 0 on."""

import csv
import math
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path

from pydantic import ValidationError

from bench.autoscaler.requests import Request
from bench.autoscaler.trace_rows import AzureRow, MooncakeRow, ServeGenRow

WINDOW_SECONDS = 600
"""Of ServeGen's rates."""
CHAT_PROMPT, CHAT_OUTPUT = (6.4, 1.1), (5.0, 0.9)
"""Lengths where a trace has rates alone: (mu, sigma) of log-normal distributions, chat-like."""
LONGEST_CHAT_TOKENS = 16384


class TraceError(Exception):
    """A file that is no trace of the stated format; the message says what to change."""


def read(
    path: Path, trace_format: str, *, hours: float, rate: float | None, seed: int
) -> list[Request]:
    """The requests of a trace.

    Args:
        path: the file.
        trace_format: azure, mooncake or servegen.
        hours: the longest span that is taken; of ServeGen's, the span whose rate swings most.
        rate: mean requests per second; ServeGen's are brought to it, others thinned if they have
            more. None leaves recorded arrivals as they are.
        seed: of what is drawn.

    Raises:
        TraceError: the file is missing, broken or empty.
    """
    draw = random.Random(seed)
    try:
        requests = FORMATS[trace_format](path, hours * 3600, rate, draw)
    except (OSError, EOFError, ValueError, csv.Error, tarfile.TarError) as error:
        cause = str(error).partition("\n")[0].rstrip(":")
        raise TraceError(f"{path} is no {trace_format} trace ({cause}).") from error
    if not requests:
        raise TraceError(f"{path} has no requests.")
    return requests


def _azure(path: Path, seconds: float, rate: float | None, draw: random.Random) -> list[Request]:
    """A CSV table of AzurePublicDataset."""
    requests = []
    with path.open(newline="") as lines:
        rows = csv.DictReader(lines)
        for row in rows:
            with _told(rows.line_num):
                requests.append(AzureRow.model_validate(row).request())
    return _cut(requests, seconds, rate, draw)


def _mooncake(path: Path, seconds: float, rate: float | None, draw: random.Random) -> list[Request]:
    """JSON line by line."""
    requests = []
    with path.open() as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                with _told(number):
                    requests.append(MooncakeRow.model_validate_json(line).request())
    return _cut(requests, seconds, rate, draw)


@contextmanager
def _told(line: int) -> Iterator[None]:
    """Say of a row that will not do in which line and column it stands."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        place = ", ".join([f"line {line}", *map(str, first["loc"])])
        raise ValueError(f"{place}: {first['msg']}") from error


def _cut(
    requests: Sequence[Request], seconds: float, rate: float | None, draw: random.Random
) -> list[Request]:
    """The first `seconds`, thinned to `rate` where they have more."""
    ordered = sorted(requests, key=lambda request: request.arrival)
    if not ordered:
        return []
    began = ordered[0].arrival
    taken = [r for r in ordered if r.arrival - began <= seconds]
    span = max(taken[-1].arrival - began, 1.0)
    kept = 1.0 if rate is None else min(rate * span / len(taken), 1.0)
    return [
        replace(request, arrival=request.arrival - began)
        for request in taken
        if kept == 1.0 or draw.random() < kept
    ]


Client = dict[int, ServeGenRow]
"""How it sends, by the start of the window."""
SILENT = ServeGenRow(start=0)


def _servegen(path: Path, seconds: float, rate: float | None, draw: random.Random) -> list[Request]:
    """Rates of clients in windows: their sum swings through the day, each has its own bursts."""
    clients = list(_clients(path))
    if not any(clients):
        raise ValueError("no client has a window")
    starts = _widest_swing(clients, max(round(seconds / WINDOW_SECONDS), 1))
    total = sum(client.get(start, SILENT).rate for client in clients for start in starts)
    if not total:
        raise ValueError(f"no client sends anything in {len(starts)} windows")
    scale = (SERVEGEN_RATE if rate is None else rate) * len(starts) / total
    arrivals = sorted(
        at for client in clients for at in _arrivals(client, starts, scale=scale, draw=draw)
    )
    return [_chat(at, draw) for at in arrivals]


SERVEGEN_RATE = 3.0
"""Mean requests per second that ServeGen's clients are scaled to; recorded are thousands."""


def _clients(path: Path) -> Iterator[Client]:
    with tarfile.open(path) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            content = archive.extractfile(member)
            if content is not None and member.name.endswith(".csv"):
                yield {round(row.start): row for row in _windows(TextIOWrapper(content))}


def _windows(lines: Iterable[str]) -> Iterator[ServeGenRow]:
    rows = csv.reader(lines)
    for columns in rows:
        with _told(rows.line_num):
            yield ServeGenRow.of(columns)


def _widest_swing(clients: Sequence[Client], windows: int) -> list[int]:
    """The consecutive windows, `windows` of them, that lead through the widest swing."""
    starts = sorted({start for client in clients for start in client})
    totals = [sum(client.get(start, SILENT).rate for client in clients) for start in starts]
    spans = [totals[i : i + windows] for i in range(max(len(totals) - windows + 1, 1))]
    first = max(range(len(spans)), key=lambda i: max(spans[i]) - min(spans[i]))
    return starts[first : first + windows]


def _arrivals(
    client: Client, starts: Sequence[int], *, scale: float, draw: random.Random
) -> Iterable[float]:
    """A renewal process with Gamma gaps, whose rate follows the windows.

    Gaps are drawn with mean 1 and stretched by the rate of the window that they begin in.
    """
    at = 0.0
    while (index := int(at // WINDOW_SECONDS)) < len(starts):
        window = client.get(starts[index], SILENT)
        if window.rate * scale <= 0:
            at = (index + 1) * WINDOW_SECONDS
            continue
        shape = 1 / max(window.variation, 0.05) ** 2
        gap = draw.gammavariate(shape, 1 / shape) / (window.rate * scale)
        end = (index + 1) * WINDOW_SECONDS
        if at + gap >= end:
            # A gap that leaves the window is drawn anew there: the next may be much busier.
            at = float(end)
            continue
        at += gap
        yield at


def _chat(at: float, draw: random.Random) -> Request:
    prompt, output = (
        min(math.ceil(draw.lognormvariate(*length)), LONGEST_CHAT_TOKENS)
        for length in (CHAT_PROMPT, CHAT_OUTPUT)
    )
    return Request(arrival=at, prompt_tokens=prompt, output_tokens=output)


FORMATS: dict[str, Callable[[Path, float, float | None, random.Random], list[Request]]] = {
    "azure": _azure,
    "mooncake": _mooncake,
    "servegen": _servegen,
}
