"""How much work a server has, as a share of what it can carry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Literal, get_args

from kvarn_operator.readings import Reading

TOLERATED_PREEMPTIONS = 0.02
"""Preempted requests per finished one at which a server counts as full."""
REJECTED = 2.0
"""Pressure of a server that turns requests away: at least one more is wanted at once."""
COMPUTE_TARGET = 0.8
"""Share of its time, computing prompts, at which a server is full: prompts then wait for about four
others (Pollaczek-Khinchine: `u / (1 - u)` times their time, and more if lengths vary), at 0.9 nine.
"""

Part = Literal["cache", "compute", "running", "waiting", "preemptions", "rejections"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What presses on one server; 1.0 is a full one."""

    cache: float = 0.0
    compute: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    preemptions: float = 0.0
    rejections: float = 0.0

    @property
    def index(self) -> float:
        """The largest part."""
        return self[self.limited_by]

    @property
    def limited_by(self) -> Part:
        """Name of the largest part."""
        return max(PARTS, key=self.__getitem__)

    def __getitem__(self, name: Part) -> float:
        value: float = getattr(self, name)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A ready server with fresh metrics.

    Attributes:
        capacity_tokens: what its cache holds when it counts as full.
        load: `parts.index`, or `incoming` if that is more: what it would have to hand over if it
            went.
        incoming: what its present requests take of it, without what queues and events add.
        reused: what computing the tokens that its cache spared would take of it.
        backlog_seconds: time that computing the prompts that wait will take.
        standing_queue: requests that its queue was never below of late.
    """

    name: str
    parts: Parts
    load: float
    incoming: float = 0.0
    capacity_tokens: float
    running: int
    usage: float
    reused: float = 0.0
    backlog_seconds: float = 0.0
    standing_queue: int = 0

    @property
    def demand_tokens(self) -> float:
        """Its pressure in tokens."""
        return self.parts.index * self.capacity_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The ready servers of one resource.

    Attributes:
        servers: awake ones with fresh metrics.
        stale: names of ready pods whose metrics are missing, old or unreadable.
        asleep: how many sleep.
        watched: whether rates can be told; not, just after the operator started.
    """

    servers: tuple[Server, ...] = ()
    stale: tuple[str, ...] = ()
    asleep: int = 0
    watched: bool = True
    errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> int:
        """How many servers are ready, whether they say something or not."""
        return len(self.servers) + len(self.stale) + self.asleep

    @property
    def demand(self) -> float:
        """Servers that would carry the demand, each at its target."""
        return sum(server.demand_tokens for server in self.servers) / self._capacity_tokens

    @property
    def incoming(self) -> float:
        """`demand` without what queues and events add to it."""
        tokens = sum(server.incoming * server.capacity_tokens for server in self.servers)
        return tokens / self._capacity_tokens

    @property
    def busy(self) -> float:
        """Servers that the prompts which come in would keep busy."""
        return COMPUTE_TARGET * sum(server.parts.compute for server in self.servers)

    @property
    def reused(self) -> float:
        """Servers that would compute, at their target, what is found in caches."""
        return sum(server.reused for server in self.servers)

    @property
    def backlog_seconds(self) -> float:
        """Time that one server would take to compute all prompts that wait."""
        return sum(server.backlog_seconds for server in self.servers)

    @property
    def is_outrun(self) -> bool:
        """Whether a queue stands before each server."""
        return bool(self.servers) and all(server.standing_queue for server in self.servers)

    @property
    def load(self) -> float:
        """Servers that would carry what would have to be handed over, each at its target."""
        handed = sum(server.load * server.capacity_tokens for server in self.servers)
        return handed / self._capacity_tokens

    @property
    def limited_by(self) -> Part:
        """The largest part of the fullest server."""
        return self.fullest.parts.limited_by if self.fullest else "cache"

    @property
    def _capacity_tokens(self) -> float:
        """Of a server, on average."""
        return sum(server.capacity_tokens for server in self.servers) / len(self.servers)

    @property
    def percent(self) -> int | None:
        """Mean pressure; None where there is nothing to go by."""
        if not self.servers:
            return None
        mean = sum(server.parts.index for server in self.servers) / len(self.servers)
        return round(100 * mean)

    @property
    def fullest(self) -> Server | None:
        """The server with the greatest pressure."""
        return max(self.servers, key=lambda server: server.parts.index, default=None)


def coarse(percent: float) -> int:
    """`percent` in steps of five, so that a status at rest rests."""
    return 5 * round(percent / 5)


def fleet(
    ready: Sequence[str],
    readings: Mapping[str, Reading],
    *,
    target: float,
    max_sequences: int,
    planned_tokens: int,
    limits: Mapping[str, int] = MappingProxyType({}),
    queue_seconds: float | None = None,
    now: datetime,
    poll_seconds: float,
) -> Fleet:
    """The ready servers as `readings` show them.

    Args:
        ready: names of the ready pods.
        readings: by pod.
        target: cache usage at which a server is full, 0 to 1.
        max_sequences: most that run at once on one server by plan, where `limits` does not say.
        planned_tokens: what a cache holds by plan, where a server does not say.
        limits: most that run at once on each pod, one of an earlier plan maybe.
        queue_seconds: that requests may wait; None if nobody minds.
        now: the time.
        poll_seconds: time between two rounds.
    """
    fresh = {
        pod: readings[pod]
        for pod in ready
        if pod in readings and readings[pod].is_fresh(now, poll_seconds=poll_seconds)
    }
    awake = {pod: reading for pod, reading in fresh.items() if not reading.sample.asleep}
    watched = any(reading.is_watched(poll_seconds=poll_seconds) for reading in fresh.values())
    measure = partial(parts, target=target, queue_seconds=queue_seconds, watched=watched)
    make = partial(_server, target=target, tokens=planned_tokens)
    servers = []
    for pod, reading in awake.items():
        most = limits.get(pod, max_sequences)
        servers.append(make(pod, reading, measure(reading, max_sequences=most), most=most))
    stale = tuple(pod for pod in ready if pod not in fresh)
    return Fleet(
        servers=tuple(servers),
        stale=stale,
        asleep=len(fresh) - len(awake),
        watched=watched,
        errors={pod: readings[pod].error for pod in stale if pod in readings},
    )


def parts(
    reading: Reading,
    *,
    target: float,
    max_sequences: int,
    queue_seconds: float | None = None,
    watched: bool = True,
) -> Parts:
    """The parts of a server's pressure.

    Where the cache is what binds, fewer sequences run than may: those that run are then what the
    server can carry, and those that wait count against them, as far as they cannot just follow;
    how far that is can only be told where rates can be.

    While prompts are computed, sequences hardly advance: where these take the share `c` of the
    time, places are held for `1 / (1 - c)` of what they are held on a server without prompts. What
    both take of servers adds up, then, to `c + (1 - c) * places`.
    """
    sample, before = reading.sample, reading.previous
    cache = sample.usage / target
    carried = max(sample.running, 1) if cache >= 1 else max_sequences
    queued = sample.waiting * reading.waiting_share if watched else 0.0
    places = (sample.running + queued) / carried
    computing = reading.computing_share
    waiting = computing + (1 - computing) * places if sample.waiting else 0.0
    return Parts(
        cache=cache,
        compute=reading.compute_share / COMPUTE_TARGET,
        running=sample.running / max_sequences if sample.waiting else 0.0,
        waiting=max(waiting, reading.queue_seconds / queue_seconds if queue_seconds else 0.0),
        preemptions=min(reading.preempted_share / TOLERATED_PREEMPTIONS, REJECTED),
        rejections=REJECTED if sample.rejections > before.rejections else 0.0,
    )


def _server(
    pod: str, reading: Reading, found: Parts, *, target: float, most: int, tokens: int
) -> Server:
    places = (1 - reading.computing_share) * reading.sample.running / most
    incoming = max(found.cache, found.compute, places)
    return Server(
        name=pod,
        parts=found,
        load=max(found.index, incoming),
        incoming=incoming,
        capacity_tokens=target * (reading.sample.cache_tokens or tokens),
        running=reading.sample.running,
        usage=reading.sample.usage,
        reused=reading.reused_share / COMPUTE_TARGET,
        backlog_seconds=reading.backlog_seconds,
        standing_queue=reading.standing_queue,
    )
