"""Workloads at saturation and at half load.

A steady load has sequences of every age. Where an answer takes minutes, none can be waited for: the
first requests therefore begin at staggered ages, with the prompt and the part of the answer that is
thought to be written presumed in the cache, and end one after the other. Each client asks again as
soon as it is answered, a new prompt that is computed. Tokens are counted in a window, of which the
rates are those from the end of one request to the end of the last.

Saturation is as many clients as the cache holds without preempting, by the share that the first of
them take; half load is half as many, at ages drawn at random, so that requests come at random.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from bench.serving.engine import POLL_SECONDS, Engine, UnmeasuredError
from bench.serving.scenario import ENOUGH_ENDED, SETTLE_SHARE, Workload
from bench.serving.window import Window

FULL = 0.95
"""Share of the cache that saturation takes, in the mean: ages that drift need the rest."""
PILOT = 0.4
"""Share of it that the first clients take, by a rough estimate."""
FILL_SECONDS = 30.0
"""How long clients that join may wait for the engine to admit them."""
GOLDEN = 0.6180339887498949
"""Multiples of it, modulo one, are spread evenly however many they are."""


async def measure(engine: Engine, workload: Workload, seconds: float) -> dict[str, Any]:
    """A workload's figures at saturation and at half load, or why there are none."""
    about = {
        "name": workload.name,
        "input_tokens": workload.input_tokens,
        "output_tokens": workload.output_tokens,
    }
    try:
        full = await _saturated(engine, workload, seconds)
        half = await _half(engine, workload, max(full["clients"] // 2, 1), seconds)
    except UnmeasuredError as error:
        return {**about, "skipped": str(error)}
    return {**about, "saturated": full, "half_load": half}


async def _saturated(engine: Engine, workload: Workload, seconds: float) -> dict[str, Any]:
    evenly = (index * GOLDEN % 1 for index in count(1))
    async with _clients(engine, workload, evenly) as clients:
        mean_tokens = workload.input_tokens + workload.output_tokens / 2
        pilot = min(max(int(PILOT * engine.cache_tokens / mean_tokens), 1), engine.most_sequences)
        await clients.join(pilot)
        share = engine.meter.usage / max(engine.meter.running, 1)
        most = min(max(int(FULL / share), pilot), engine.most_sequences)
        await clients.join(most - pilot)
        window = await clients.watched(seconds)
    limit = "sequences" if most == engine.most_sequences else "cache"
    return {"clients": most, "limited_by": limit, **window.report()}


async def _half(engine: Engine, workload: Workload, number: int, seconds: float) -> dict[str, Any]:
    at_random = random.Random(0)
    async with _clients(engine, workload, iter(at_random.random, None)) as clients:
        await clients.join(number)
        window = await clients.watched(seconds)
    return {"clients": number, **window.report()}


@asynccontextmanager
async def _clients(
    engine: Engine, workload: Workload, ages: Iterator[float]
) -> AsyncIterator["Clients"]:
    """None at first; all have left, and the cache is empty, when the context ends."""
    clients = Clients(engine, workload, ages)
    try:
        yield clients
    finally:
        await clients.leave()
        await engine.forget()


class Clients:
    """Each asks, waits for the whole answer, and asks again."""

    def __init__(self, engine: Engine, workload: Workload, ages: Iterator[float]) -> None:
        self._engine, self._workload, self._ages = engine, workload, ages
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, number: int) -> None:
        """More clients, at the next ages; returns when the engine has admitted them."""
        for age in (next(self._ages) for _ in range(number)):
            self._tasks.append(asyncio.create_task(self._converse(age)))
        deadline = time.monotonic() + FILL_SECONDS
        while not self._admitted() and time.monotonic() < deadline:
            self._check()
            await asyncio.sleep(POLL_SECONDS)

    async def watched(self, seconds: float) -> Window:
        """What the engine does in so many seconds, when it has settled."""
        await asyncio.sleep(SETTLE_SHARE * seconds)
        window = self._engine.meter.window = Window()
        await asyncio.sleep(seconds)
        deadline = time.monotonic() + seconds
        while window.finished < ENOUGH_ENDED and time.monotonic() < deadline:
            self._check()
            await asyncio.sleep(POLL_SECONDS)
        self._engine.meter.window = Window()
        self._check()
        if not window.rates.seconds:
            raise UnmeasuredError(f"no two steps ended in {seconds:.0f} s")
        return window

    async def leave(self) -> None:
        """End all requests."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _converse(self, age: float) -> None:
        workload = self._workload
        written = workload.input_tokens + int(age * workload.output_tokens)
        (prompt,) = self._engine.prompts(1, written)  # what is in its last block is computed
        await self._engine.ask(prompt, workload.tokens - written, presumed=True)
        while True:
            (prompt,) = self._engine.prompts(1, workload.input_tokens)
            await self._engine.ask(prompt, workload.output_tokens)

    def _admitted(self) -> bool:
        """Whether all run, but for a few that have just been answered."""
        return self._engine.meter.running >= 0.95 * len(self._tasks)

    def _check(self) -> None:
        """Raise what ended a client."""
        for task in self._tasks:
            if task.done():
                task.result()
