"""What `bench.serving` measures of an engine, measured of a simulated one."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import fmean

from bench.autoscaler.engine import Engine
from bench.autoscaler.requests import Job, Request
from bench.autoscaler.roofline import Server
from bench.autoscaler.summary import bucket_quantile, quantile
from bench.serving.scenario import ENOUGH_ENDED, SETTLE_SHARE, STEPS, Cell, Workload
from bench.serving.window import Rates

LEAST_SECONDS = 1e-9
"""To advance an engine by leads to the end of its next step."""


def step_seconds(server: Server, cell: Cell) -> float:
    """A step of decoding: the mean of `STEPS` from the cell's context on."""
    first, *_ = _served(
        server, [_presumed(cell.context + 1, 1 + STEPS) for _ in range(cell.sequences)]
    )
    return (first.finished - first.first_token) / STEPS


def prefill_rate(server: Server, cell: Cell) -> float:
    """Tokens a second of the cell's prompts, which all wait when the engine begins."""
    *_, last = _served(server, [_asked(cell.context + 1, 1) for _ in range(cell.sequences)])
    return cell.sequences * cell.context / last.finished


def _served(server: Server, jobs: list[Job]) -> list[Job]:
    engine = _begun(server, jobs)
    while engine.outstanding:
        engine.advance(engine.now + 1.0)
    return jobs


def _begun(server: Server, jobs: Iterable[Job]) -> Engine:
    engine = Engine(server)
    engine.arriving.extend(jobs)
    return engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What was seen while a load lasted.

    Attributes:
        rates: of tokens.
        usage: share of the cache after each step, in the mean.
        ttft: times to first tokens, in order.
        gaps: between tokens, by `bench.autoscaler.engine.BUCKETS`.
    """

    rates: Rates
    usage: float
    ttft: tuple[float, ...]
    gaps: Counter[int]

    def ttft_quantile(self, share: float) -> float:
        """Of the times to first tokens; 0 where none came."""
        return quantile(self.ttft, share)

    def gap_quantile(self, share: float) -> float:
        """Of the times between tokens."""
        return bucket_quantile(self.gaps, share)


def saturated(server: Server, workload: Workload, *, clients: int, seconds: float) -> Window:
    """A load whose first requests have ages that are spread evenly."""
    return _watched(server, workload, [(i + 0.5) / clients for i in range(clients)], seconds)


def half_load(server: Server, workload: Workload, *, clients: int, seconds: float) -> Window:
    """A load whose first requests have ages that are drawn, as they are there."""
    draw = random.Random(0)
    return _watched(server, workload, [draw.random() for _ in range(clients)], seconds)


def _watched(server: Server, workload: Workload, ages: Iterable[float], seconds: float) -> Window:
    load = Load(server, workload, ages)
    load.go_on(SETTLE_SHARE * seconds)
    engine, began = load.engine, load.engine.now
    gaps, enough = Counter(engine.latencies), engine.totals.finished + ENOUGH_ENDED
    load.used.clear()
    load.rates = Rates()
    load.go_on(began + seconds)
    while engine.totals.finished < enough and engine.now < began + 2 * seconds:
        load.go_on(engine.now + LEAST_SECONDS)
    firsts = [job for job in load.jobs if began < job.first_token <= engine.now]
    return Window(
        rates=load.rates,
        usage=fmean(load.used) / server.cache_tokens,
        ttft=tuple(sorted(job.first_token_seconds for job in firsts)),
        gaps=engine.latencies - gaps,
    )


class Load:
    """Clients that each ask, wait for the whole answer, and ask again.

    Attributes:
        jobs: all that was asked.
        used: tokens of the cache in use, after each step.
        rates: of tokens; put fresh ones here to count from now on.
    """

    def __init__(self, server: Server, workload: Workload, ages: Iterable[float]) -> None:
        self._workload = workload
        self.used: list[int] = []
        self.rates = Rates()
        self.jobs = [_aged(workload, age, server.block_tokens) for age in ages]
        self.engine = _begun(server, self.jobs)
        self._unanswered = list(self.jobs)

    def go_on(self, until: float) -> None:
        """Serve step by step, for whoever is answered asks again at once."""
        while self.engine.now < until:
            before, totals = replace(self.engine.totals), self.engine.totals
            self.engine.advance(self.engine.now + LEAST_SECONDS)
            self.used.append(self.engine.used_tokens)
            answered = totals.finished - before.finished
            self.rates.add(
                self.engine.now,
                tokens=totals.generated_tokens - before.generated_tokens,
                prompt_tokens=totals.computed_tokens - before.computed_tokens,
                ended=answered,
            )
            if answered:
                self._ask_again()

    def _ask_again(self) -> None:
        now, workload = self.engine.now, self._workload
        left = [job for job in self._unanswered if not job.is_finished]
        again = [
            _asked(workload.input_tokens, workload.output_tokens, at=now)
            for _ in range(len(self._unanswered) - len(left))
        ]
        self.engine.arriving.extend(again)
        self.jobs += again
        self._unanswered = left + again


def _aged(workload: Workload, age: float, block_tokens: int) -> Job:
    """A request of which prompt and answer, as far as it is written, are in the cache."""
    written = workload.input_tokens + int(age * workload.output_tokens)
    return _presumed(written, workload.tokens - written, block_tokens)


def _presumed(prompt: int, output: int, block_tokens: int = 1) -> Job:
    """A request whose prompt is in the cache, but for its last block."""
    job = _asked(prompt, output)
    job.cached = (prompt - 1) // block_tokens * block_tokens
    return job


def _asked(prompt: int, output: int, *, at: float = 0.0) -> Job:
    return Job(Request(arrival=at, prompt_tokens=prompt, output_tokens=output))
