"""How much work a server has, as a share of what it can carry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal, get_args

from kvarn_operator.scrape import Sample, ScrapeError

TOLERATED_PREEMPTIONS = 0.02
"""Preempted requests per finished one at which a server counts as full."""
REJECTED = 2.0
"""Pressure of a server that turns requests away: at least one more is wanted at once."""
FRESH_INTERVALS = 3
"""A sample is fresh for this many polls."""

Part = Literal["cache", "running", "waiting", "preemptions", "rejections"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What presses on one server; 1.0 is a full one."""

    cache: float = 0.0
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
class Reading:
    """The last good samples of one pod.

    Attributes:
        at: when `sample` was taken.
        previous: the one before it, for what happened between; the same at first.
        error: why the latest try gave none; empty if it did.
    """

    at: datetime
    sample: Sample
    previous: Sample
    error: str = ""

    def is_fresh(self, now: datetime, *, poll_seconds: float) -> bool:
        """Whether it still says how the server is."""
        return now - self.at <= timedelta(seconds=FRESH_INTERVALS * poll_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A ready server with fresh metrics.

    Attributes:
        capacity_tokens: what its cache holds when it counts as full.
        load: `parts.index`, or the share of its sequences if that is more: what it would have
            to hand over if it went.
    """

    name: str
    parts: Parts
    load: float
    capacity_tokens: float
    running: int
    usage: float

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
    """

    servers: tuple[Server, ...] = ()
    stale: tuple[str, ...] = ()
    asleep: int = 0
    errors: Mapping[str, str] = field(default_factory=dict)

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


def record(
    readings: Mapping[str, Reading],
    answers: Mapping[str, Sample | ScrapeError],
    *,
    now: datetime,
) -> dict[str, Reading]:
    """`readings` after a round of `answers`; pods that were not asked are forgotten."""
    kept = {}
    for pod, answer in answers.items():
        before = readings.get(pod)
        if isinstance(answer, Sample):
            previous = before.sample if before and not _restarted(before.sample, answer) else answer
            kept[pod] = Reading(at=now, sample=answer, previous=previous)
        elif before is not None:
            kept[pod] = replace(before, error=str(answer))
    return kept


def fleet(
    ready: Sequence[str],
    readings: Mapping[str, Reading],
    *,
    target: float,
    max_sequences: int,
    planned_tokens: int,
    now: datetime,
    poll_seconds: float,
) -> Fleet:
    """The ready servers as `readings` show them.

    Args:
        ready: names of the ready pods.
        readings: by pod.
        target: cache usage at which a server is full, 0 to 1.
        max_sequences: most that run at once on one server.
        planned_tokens: what a cache holds by plan, where a server does not say.
        now: the time.
        poll_seconds: time between two rounds.
    """
    fresh = {
        pod: readings[pod].sample
        for pod in ready
        if pod in readings and readings[pod].is_fresh(now, poll_seconds=poll_seconds)
    }
    awake = {pod: sample for pod, sample in fresh.items() if not sample.asleep}
    servers = [
        _server(pod, readings[pod], target=target, most=max_sequences, tokens=planned_tokens)
        for pod in awake
    ]
    stale = tuple(pod for pod in ready if pod not in fresh)
    return Fleet(
        servers=tuple(servers),
        stale=stale,
        asleep=len(fresh) - len(awake),
        errors={pod: readings[pod].error for pod in stale if pod in readings},
    )


def parts(reading: Reading, *, target: float, max_sequences: int) -> Parts:
    """The parts of a server's pressure.

    Where the cache is what binds, fewer sequences run than may: those that run are then what the
    server can carry, and those that wait count against them.
    """
    sample, before = reading.sample, reading.previous
    cache = sample.usage / target
    carried = max(sample.running, 1) if cache >= 1 else max_sequences
    finished = max(sample.finished - before.finished, 1)
    preempted = max(sample.preemptions - before.preemptions, 0)
    return Parts(
        cache=cache,
        running=sample.running / max_sequences if sample.waiting else 0.0,
        waiting=(sample.running + sample.waiting) / carried if sample.waiting else 0.0,
        preemptions=min(preempted / finished / TOLERATED_PREEMPTIONS, REJECTED),
        rejections=REJECTED if sample.rejections > before.rejections else 0.0,
    )


def _server(pod: str, reading: Reading, *, target: float, most: int, tokens: int) -> Server:
    found = parts(reading, target=target, max_sequences=most)
    return Server(
        name=pod,
        parts=found,
        load=max(found.index, reading.sample.running / most),
        capacity_tokens=target * (reading.sample.cache_tokens or tokens),
        running=reading.sample.running,
        usage=reading.sample.usage,
    )


def _restarted(before: Sample, after: Sample) -> bool:
    """Whether the counters began anew: the server is another one under the same name."""
    return after.finished < before.finished or after.preemptions < before.preemptions
