"""A deployment of servers: started with a delay, fed by a Service, drained, stopped.

Time goes in polls. At each the policy sees what a scrape would see and names a size; what it asks
for takes `Setup.startup_seconds` to be ready. A server that goes gets no more requests and ends
what it has, whatever the policy: only the choice of size differs.
"""

import math
import random
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Protocol

from bench.autoscaler.engine import Engine
from bench.autoscaler.requests import Job, Request
from bench.autoscaler.roofline import Server
from bench.autoscaler.routing import Router
from kvarn_operator.scrape import Sample

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""When traces begin, for policies that want a time of day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What all policies of a comparison share.

    Attributes:
        poll_seconds: between two scrapes.
        initial: size at the beginning.
        restart_seconds: between two restarts of our operator; rivals keep what they know.
        routing: how a request finds its server: `random`, as kube-proxy has it, or `work`, where it
            is computed first, as routers that know queues and prefixes have it.
    """

    server: Server
    startup_seconds: float = 120.0
    poll_seconds: float = 5.0
    initial: int = 1
    max_replicas: int = 64
    restart_seconds: float = math.inf
    routing: str = "work"
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a policy sees.

    Attributes:
        seconds: since the trace began.
        replicas: size that is wanted now, servers that are loading included.
        samples: by name of each ready server, what its metrics say.
        queued_tokens: by name, tokens of the prompts that wait: no metric of vLLM, but Dynamo's
            workers publish it.
        server: what a server is, for policies that are told so.
    """

    seconds: float
    replicas: int
    samples: Mapping[str, Sample]
    queued_tokens: Mapping[str, int]
    server: Server

    @property
    def now(self) -> datetime:
        """The time."""
        return EPOCH + timedelta(seconds=self.seconds)

    @property
    def loading(self) -> int:
        """Servers that are not ready yet."""
        return self.replicas - len(self.samples)


class Policy(Protocol):
    """Decides the size; keeps what it remembers to itself."""

    @property
    def interval_seconds(self) -> float:
        """Between two decisions."""

    def desired(self, view: View) -> int:
        """The size that is wanted."""

    def deletion_costs(self) -> Mapping[str, int]:
        """Which servers should rather stay, by name; empty if it does not care."""


@dataclass(slots=True, eq=False)
class Replica:
    """A server with its life.

    Attributes:
        started: seconds at which it was asked for.
        ready: at which it takes requests.
        ended: at which it was gone; NaN until then.
    """

    name: str
    started: float
    ready: float
    engine: Engine
    draining: bool = False
    ended: float = float("nan")


@dataclass(frozen=True, slots=True)
class Moment:
    """The deployment at one poll."""

    seconds: float
    wanted: int
    ready: int


@dataclass(slots=True)
class Run:
    """What came of a policy.

    Attributes:
        span: seconds from the first arrival to the last.
        scalings: (seconds, change) of each change of size.
    """

    span: float
    jobs: list[Job] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)
    scalings: list[tuple[float, int]] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)

    @property
    def gpu_seconds(self) -> float:
        """Of all servers within the span, from the request for one to its end."""
        ends = [(r, r.ended if r.ended == r.ended else self.span) for r in self.replicas]
        return sum(
            max(min(end, self.span) - r.started, 0.0) * r.engine.server.gpus for r, end in ends
        )


_arrival = attrgetter("arrival")


class Cluster:
    """One run of one policy over one trace."""

    def __init__(self, setup: Setup, policy: Policy) -> None:
        self._setup = setup
        self._policy = policy
        self._draw = random.Random(setup.seed)
        self._live: list[Replica] = []
        self._run = Run(span=0.0)
        for _ in range(setup.initial):
            self._start(0.0, ready=0.0)

    def play(self, requests: Sequence[Request]) -> Run:
        """Serve all requests; those after the end of the trace are none, its tail is finished."""
        self._run.span = requests[-1].arrival
        now, due, upcoming = 0.0, 0.0, 0
        while upcoming < len(requests) or self._busy():
            if now >= due:
                self._decide(now)
                due += self._policy.interval_seconds
            end = now + self._setup.poll_seconds
            coming = bisect_left(requests, end, lo=upcoming, key=_arrival)
            self._hand_over(requests[upcoming:coming], now)
            self._work(end)
            now, upcoming = end, coming
        return self._run

    def _busy(self) -> bool:
        return any(replica.engine.outstanding for replica in self._live)

    def _staying(self) -> list[Replica]:
        return [replica for replica in self._live if not replica.draining]

    def _decide(self, now: float) -> None:
        staying = self._staying()
        ready = [replica for replica in staying if replica.ready <= now]
        view = View(
            seconds=now,
            replicas=len(staying),
            samples={replica.name: sample(replica.engine) for replica in ready},
            queued_tokens={replica.name: replica.engine.queued_tokens for replica in ready},
            server=self._setup.server,
        )
        wanted = min(max(self._policy.desired(view), 1), self._setup.max_replicas)
        if now <= self._run.span:
            self._run.moments.append(Moment(now, wanted, len(ready)))
        if wanted != len(staying):
            self._run.scalings.append((now, wanted - len(staying)))
        for _ in range(wanted - len(staying)):
            self._start(now, ready=now + self._setup.startup_seconds)
        for _ in range(len(staying) - wanted):
            self._stop_one(now)

    def _start(self, now: float, *, ready: float) -> None:
        engine = Engine(self._setup.server, now=ready)
        name = f"server-{len(self._run.replicas)}"
        replica = Replica(name=name, started=now, ready=ready, engine=engine)
        self._live.append(replica)
        self._run.replicas.append(replica)

    def _stop_one(self, now: float) -> None:
        """As a ReplicaSet chooses: not ready first, then by deletion cost, then the youngest."""
        costs = self._policy.deletion_costs()
        victim = min(
            self._staying(),
            key=lambda r: (r.ready <= now, costs.get(r.name, 0), -r.started),
        )
        victim.draining = True
        if victim.ready > now:
            victim.ended = now
            self._live.remove(victim)

    def _hand_over(self, requests: Sequence[Request], now: float) -> None:
        ready = [replica.engine for replica in self._staying() if replica.ready <= now]
        router = Router(ready, now=now)
        at_random = self._setup.routing == "random"
        for request in requests:
            job = Job(request)
            self._run.jobs.append(job)
            if request.prompt_tokens + request.output_tokens > self._setup.server.max_model_tokens:
                job.rejected = True
            elif at_random:
                ready[int(self._draw.random() * len(ready))].arriving.append(job)
            else:
                router.choose(request).arriving.append(job)

    def _work(self, end: float) -> None:
        for replica in list(self._live):
            if replica.ready < end:
                replica.engine.advance(end)
            if replica.draining and not replica.engine.outstanding:
                replica.ended = replica.engine.now
                self._live.remove(replica)


def sample(engine: Engine) -> Sample:
    """What the operator's scraper would read of the server now."""
    totals, server = engine.totals, engine.server
    return Sample(
        usage=engine.used_tokens / server.cache_tokens,
        running=engine.running,
        waiting=len(engine.waiting),
        preemptions=totals.preemptions,
        finished=totals.finished,
        first_tokens=totals.first_tokens,
        queued=totals.finished,
        queue_seconds=totals.queue_seconds,
        prefill_seconds=totals.prefill_seconds,
        prefilled_tokens=totals.prefilled_tokens,
        prompt_tokens=totals.prompt_tokens,
        computed_tokens=totals.computed_tokens,
        generated_tokens=totals.generated_tokens,
        cache_tokens=server.cache_tokens,
    )
