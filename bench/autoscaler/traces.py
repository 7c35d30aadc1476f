"""Readers of request traces; each gives requests in order of arrival, from second 0 on."""

import csv
import json
import math
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path

from bench.autoscaler.requests import Request

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
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        raise TraceError(f"{path} is no {trace_format} trace ({error}).") from error
    if not requests:
        raise TraceError(f"{path} has no requests.")
    return requests


def _azure(path: Path, seconds: float, rate: float | None, draw: random.Random) -> list[Request]:
    """``TIMESTAMP,ContextTokens,GeneratedTokens`` of AzurePublicDataset."""
    with path.open(newline="") as lines:
        requests = [
            Request(
                arrival=datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp(),
                prompt_tokens=max(int(row["ContextTokens"]), 1),
                output_tokens=max(int(row["GeneratedTokens"]), 1),
            )
            for row in csv.DictReader(lines)
        ]
    return _cut(requests, seconds, rate, draw)


def _mooncake(path: Path, seconds: float, rate: float | None, draw: random.Random) -> list[Request]:
    """One JSON object a line: timestamp in ms, lengths, ids of the prompt's blocks."""
    with path.open() as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    requests = [
        Request(
            arrival=row["timestamp"] / 1000,
            prompt_tokens=max(row["input_length"], 1),
            output_tokens=max(row["output_length"], 1),
            prefix=tuple(row.get("hash_ids", ())),
        )
        for row in rows
    ]
    return _cut(requests, seconds, rate, draw)


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


Client = dict[int, tuple[float, float]]
"""By the start of its window: mean rate, and coefficient of variation between arrivals."""


def _servegen(path: Path, seconds: float, rate: float | None, draw: random.Random) -> list[Request]:
    """Rates of clients in windows: their sum swings through the day, each has its own bursts."""
    clients = list(_clients(path))
    starts = _widest_swing(clients, round(seconds / WINDOW_SECONDS))
    total = sum(client.get(start, (0.0, 0.0))[0] for client in clients for start in starts)
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
                rows = csv.reader(TextIOWrapper(content))
                yield {round(float(r[0])): (float(r[1] or 0), float(r[2] or 1)) for r in rows}


def _widest_swing(clients: Sequence[Client], windows: int) -> list[int]:
    """The consecutive windows, `windows` of them, that lead through the widest swing."""
    starts = sorted({start for client in clients for start in client})
    totals = [sum(client.get(start, (0.0, 0.0))[0] for client in clients) for start in starts]
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
        mean, variation = client.get(starts[index], (0.0, 1.0))
        if mean * scale <= 0:
            at = (index + 1) * WINDOW_SECONDS
            continue
        shape = 1 / max(variation, 0.05) ** 2
        gap = draw.gammavariate(shape, 1 / shape) / (mean * scale)
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
