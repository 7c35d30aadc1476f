"""What a real server did: alone, in small batches, and under a load like a trace's."""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from hack.errors import Refusal

REQUEST_SECONDS = 300.0
SETTLE_SECONDS = 0.6
"""Until prompts that were sent are computed."""
TOKEN_IDS = (10, 250)
"""Any tokens do: lengths alone matter, and prompts that share nothing find nothing in a cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request as its client saw it, in seconds since the first."""

    arrival: float
    prompt_tokens: int
    output_tokens: int
    first_token: float
    finished: float

    @property
    def first_token_seconds(self) -> float:
        """Time to the first token."""
        return self.first_token - self.arrival

    @property
    def token_seconds(self) -> float:
        """Mean time between two tokens."""
        return (self.finished - self.first_token) / max(self.output_tokens - 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A run.

    Attributes:
        server: the server's limits, as `bench.autoscaler.roofline.Server` names them.
        alone: requests that had the server to themselves.
        batches: groups of requests that began together; key: how many.
        beside: requests that began while others decoded; key: how many.
        load: requests that came as they came.
    """

    server: dict[str, int]
    alone: list[Answer] = field(default_factory=list)
    batches: dict[int, list[Answer]] = field(default_factory=dict)
    beside: dict[int, list[Answer]] = field(default_factory=dict)
    load: list[Answer] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            Refusal: it is not that.
        """
        try:
            data = json.loads(path.read_text())
            return cls(
                server={str(name): int(value) for name, value in data["server"].items()},
                alone=_answers(data["alone"]),
                batches={int(size): _answers(each) for size, each in data["batches"].items()},
                beside={int(size): _answers(each) for size, each in data["beside"].items()},
                load=_answers(data["load"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refusal(f"{path} is no recording ({error}): make one with --save.") from error


def _answers(rows: Sequence[dict[str, Any]]) -> list[Answer]:
    return [Answer(**row) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to ask of a server.

    Attributes:
        prompts: lengths of prompts that are sent alone, in tokens.
        batches: how many requests begin together.
        others: how many decode while one more begins.
        crowd: prompt and answer of those others, in tokens.
        requests: of the load, and how many come in a second.
        longest: prompt and answer of the load, in tokens; lengths are uniform up to them.
    """

    prompts: tuple[int, ...] = (64, 128, 256, 384, 512, 768, 1024)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    others: tuple[int, ...] = (1, 3, 6)
    crowd: tuple[int, int] = (400, 160)
    repeats: int = 3
    requests: int = 120
    rate: float = 2.0
    longest: tuple[int, int] = (768, 96)
    seed: int = 0


async def record(url: str, server: dict[str, int], plan: Plan) -> Recording:
    """Ask the server at `url` what `plan` says, and write down the times."""
    draw = random.Random(plan.seed)
    async with httpx.AsyncClient(base_url=url, timeout=REQUEST_SECONDS) as client:
        asker = _Asker(client, draw)
        await asker.ask(plan.prompts[0], 4)  # the first request compiles and fills caches
        alone = [await asker.ask(p, 2) for p in plan.prompts for _ in range(plan.repeats)]
        batches = {
            size: list(await asyncio.gather(*(asker.ask(64, 64) for _ in range(size))))
            for size in plan.batches
        }
        beside = {size: await asker.beside(size, plan) for size in plan.others}
        load = await asker.load(plan)
    return Recording(server=server, alone=alone, batches=batches, beside=beside, load=load)


class _Asker:
    """Sends requests with random prompts."""

    def __init__(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        self._client = client
        self._draw = draw
        self._began = time.perf_counter()

    async def beside(self, size: int, plan: Plan) -> list[Answer]:
        """Short answers to the middle one of the prompts, while `size` others decode."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(size):
                tasks.create_task(self.ask(*plan.crowd))
            await asyncio.sleep(SETTLE_SECONDS)
            prompt = plan.prompts[len(plan.prompts) // 2]
            return [await self.ask(prompt, 2) for _ in range(plan.repeats)]

    async def load(self, plan: Plan) -> list[Answer]:
        """Requests that come at random."""
        self._began, at, waits = time.perf_counter(), 0.0, []
        for _ in range(plan.requests):
            at += self._draw.expovariate(plan.rate)
            prompt, output = (self._draw.randint(16, most) for most in plan.longest)
            waits.append(self._ask_at(at, prompt, output))
        return list(await asyncio.gather(*waits))

    async def _ask_at(self, at: float, prompt: int, output: int) -> Answer:
        await asyncio.sleep(at)
        return await self.ask(prompt, output)

    async def ask(self, prompt_tokens: int, output_tokens: int) -> Answer:
        """One streamed completion of exactly so many tokens."""
        body = {
            "model": "demo",
            "prompt": [self._draw.randint(*TOKEN_IDS) for _ in range(prompt_tokens)],
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "stream": True,
        }
        arrival, first, last = self._now(), 0.0, 0.0
        async with self._client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                raise Refusal(f"The server answered {answer.status_code}: {await answer.aread()!r}")
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    last = self._now()
                    first = first or last
        return Answer(
            arrival=arrival,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            first_token=first,
            finished=last,
        )

    def _now(self) -> float:
        return time.perf_counter() - self._began
