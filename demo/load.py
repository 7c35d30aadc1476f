"""Sends streaming completions to an OpenAI-compatible server and counts every one of them.

`python load.py --url http://demo:8000 --model demo` needs aiohttp and nothing else of this project,
so that a pod can run it from a ConfigMap. It prints one JSON object a second and, at the end, one
with the summary. On SIGTERM it sends nothing new, waits for what is under way, and exits with 0.

Every request has a connection of its own, as from many small clients: kept connections would tie
each worker to one replica and hide the others. Nothing is sent again. A request is good only if it
was answered with 200 and its stream came to a proper end; every other one counts as failed.
"""

import argparse
import asyncio
import itertools
import json
import math
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import aiohttp

TEXT = (
    "the light of the sun passes through a small hole in the window and falls upon a prism of "
    "glass where the rays are refracted and painted in several colours upon the opposite wall"
)
PROPER_ENDS = frozenset({"stop", "length"})
SILENCE_SECONDS = 120.0
"""After so long without a byte a request counts as failed."""
PAUSE_SECONDS = 1.0
"""Between a failed request and a worker's next one: what a refused client does."""


@dataclass(frozen=True)
class Load:
    """What to send, and where.

    With a `rate` (requests per second) the load is open-loop: requests leave in time, whether or
    not earlier ones are answered. Without, `concurrency` workers each send one after the other.
    """

    url: str
    model: str
    concurrency: int = 4
    rate: float = 0.0
    seconds: float = math.inf
    prompt_words: int = 64
    output_tokens: int = 192

    def body(self, number: int) -> dict[str, Any]:
        """The request: no two prompts share a prefix, every answer has `output_tokens`."""
        words = random.Random(number).choices(TEXT.split(), k=self.prompt_words)  # noqa: S311
        return {
            "model": self.model,
            "prompt": f"{number}. {' '.join(words)}",
            "max_tokens": self.output_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }


@dataclass(frozen=True)
class Summary:
    """What a load came to: of the requests `sent`, each is either `ok` or `failed`."""

    seconds: float
    sent: int
    ok: int
    failed: int
    failures: dict[str, int]
    output_tokens: int
    output_tokens_per_second: float
    first_token_seconds: dict[str, float]
    between_tokens_seconds: dict[str, float]


class RequestError(Exception):
    """A request was not answered properly; the message says how."""


@dataclass
class Tally:
    """What has come back so far. `first_token` and `between_tokens` are in seconds."""

    started: float = field(default_factory=time.monotonic)
    sent: int = 0
    ok: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    output_tokens: int = 0
    first_token: list[float] = field(default_factory=list)
    between_tokens: list[float] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many requests were not answered properly."""
        return self.failures.total()

    def progress(self) -> dict[str, int]:
        """The counts at this moment."""
        return {
            "second": round(time.monotonic() - self.started),
            "sent": self.sent,
            "ok": self.ok,
            "failed": self.failed,
            "under_way": self.sent - self.ok - self.failed,
            "output_tokens": self.output_tokens,
        }

    def summary(self) -> Summary:
        """Everything, once nothing is under way any more."""
        seconds = time.monotonic() - self.started
        return Summary(
            seconds=round(seconds, 1),
            sent=self.sent,
            ok=self.ok,
            failed=self.failed,
            failures=dict(self.failures),
            output_tokens=self.output_tokens,
            output_tokens_per_second=round(self.output_tokens / seconds, 1),
            first_token_seconds=percentiles(self.first_token),
            between_tokens_seconds=percentiles(self.between_tokens),
        )


def percentiles(values: list[float]) -> dict[str, float]:
    """The 50th, 95th and 99th percentile; none of no values."""
    if not values:
        return {}
    cuts = statistics.quantiles([*values, values[-1]], n=100, method="inclusive")
    return {f"p{percent}": round(cuts[percent - 1], 4) for percent in (50, 95, 99)}


class Client:
    """Sends a load and keeps the tally; `stop` ends the sending."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.tally = Tally()
        self.stop = asyncio.Event()
        self._numbers = itertools.count(1)

    async def run(self) -> Summary:
        """Send until the time is up or `stop` is set, then wait for what is under way."""
        asyncio.get_running_loop().call_later(min(self.load.seconds, 1e9), self.stop.set)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_read=SILENCE_SECONDS),
        ) as session:
            send = self._in_time if self.load.rate else self._one_after_the_other
            await send(session)
        return self.tally.summary()

    async def _one_after_the_other(self, session: aiohttp.ClientSession) -> None:
        async def worker() -> None:
            while not self.stop.is_set():
                if not await self._request(session):
                    await self._stopped_within(PAUSE_SECONDS)

        async with asyncio.TaskGroup() as workers:
            for _ in range(self.load.concurrency):
                workers.create_task(worker())

    async def _in_time(self, session: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as requests:
            while not await self._stopped_within(1 / self.load.rate):
                requests.create_task(self._request(session))

    async def _stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), seconds)
        return self.stop.is_set()

    async def _request(self, session: aiohttp.ClientSession) -> bool:
        """Send one and count it; returns whether it was answered properly."""
        self.tally.sent += 1
        try:
            await self._stream(session)
        except (RequestError, aiohttp.ClientError, TimeoutError) as failure:
            self.tally.failures[f"{type(failure).__name__}: {failure}"] += 1
            return False
        self.tally.ok += 1
        return True

    async def _stream(self, session: aiohttp.ClientSession) -> None:
        body = self.load.body(next(self._numbers))
        before, times, end = time.monotonic(), self.tally.first_token, ""
        async with session.post(f"{self.load.url}/v1/completions", json=body) as response:
            if response.status != 200:
                raise RequestError(f"status {response.status}: {(await response.text())[:200]}")
            async for event in events(response):
                now = time.monotonic()
                for choice in event["choices"]:
                    times.append(now - before)
                    before, times = now, self.tally.between_tokens
                    end = choice["finish_reason"] or end
                self.tally.output_tokens += (event.get("usage") or {}).get("completion_tokens", 0)
        if end not in PROPER_ENDS:
            raise RequestError(f"the stream ended with {end or 'no finish_reason'!r}")


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON objects of a server-sent stream of completions.

    Raises:
        RequestError: the server reports an error, or the stream stops before `[DONE]`.
    """
    async for line in response.content:
        data = line.decode().strip().removeprefix("data: ")
        if data == "[DONE]":
            return
        if not data:
            continue
        event = json.loads(data)
        if "error" in event:
            raise RequestError(f"error in the stream: {event['error'].get('message')}")
        yield event
    raise RequestError("the stream broke off")


async def main(load: Load) -> None:
    """Send `load` and print one JSON object a second, then the summary."""
    client = Client(load)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, client.stop.set)
    running = asyncio.create_task(client.run())
    while not (await asyncio.wait({running}, timeout=1.0))[0]:
        print(json.dumps(client.tally.progress()), flush=True)
    print(json.dumps({"summary": asdict(running.result())}), flush=True)


def parse_arguments() -> Load:
    """Read the command line: an option for each field of `Load`."""
    parser = argparse.ArgumentParser(description="Send completions and count how they end.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True)
    for option in fields(Load):
        if option.name not in {"url", "model"}:
            name = f"--{option.name.replace('_', '-')}"
            parser.add_argument(name, type=type(option.default), default=option.default)
    return Load(**vars(parser.parse_args()))


if __name__ == "__main__":
    asyncio.run(main(parse_arguments()))
