"""Sizes for those who know the future: what the work calls for, ahead by the time of a start.

The work of a request depends on what its server finds in its prefix cache, and so on how many
servers there are. So both are tried: what it was where nothing had to wait, and what it was in our
run; and fixed sizes as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from bench.autoscaler.cluster import Run, Setup
from bench.autoscaler.policies.fixed import Schedule
from bench.autoscaler.requests import Request
from bench.autoscaler.roofline import Server

SLOT_SECONDS = 15.0
FULL = 0.85
"""Share of the cache, or of the sequences, that a server is planned to hold."""


WHOLE_TRACE = math.inf


@dataclass(frozen=True, slots=True)
class Family:
    """A way to make schedules.

    Attributes:
        window_seconds: over which work is averaged; the whole trace gives fixed sizes.
        as_served: whether to take the work of our run, not that of one with servers to spare.
    """

    window_seconds: float
    as_served: bool = False


def families(requests: Sequence[Request]) -> list[Family]:
    """The ways that are worth trying; our own run's work only where prefixes are shared."""
    plain = [Family(window) for window in (60.0, 300.0, WHOLE_TRACE)]
    if not any(request.prefix for request in requests):
        return plain
    return plain + [Family(window, as_served=True) for window in (60.0, 300.0)]


@dataclass(frozen=True, slots=True)
class Work:
    """Busy servers, at full use, in each slot of `SLOT_SECONDS`."""

    servers: tuple[float, ...]

    @classmethod
    def of(cls, run: Run, server: Server) -> "Work":
        """What the requests of `run` take: compute, or a share of the cache while they last."""
        slots = [0.0] * (int(run.span // SLOT_SECONDS) + 1)
        step = server.step
        decode = step.fixed + step.weights
        for job in run.jobs:
            if job.rejected:
                continue
            request = job.request
            tokens = request.prompt_tokens + request.output_tokens / 2 + server.tail_tokens
            compute = step.prefill_seconds(request.prompt_tokens, cached=job.cached)
            compute += request.output_tokens * step.token
            share = max(tokens / server.cache_tokens, 1 / server.max_sequences)
            held = share * request.output_tokens * decode / FULL
            slots[int(request.arrival // SLOT_SECONDS)] += max(compute, held)
        return cls(tuple(seconds / SLOT_SECONDS for seconds in slots))

    @property
    def mean(self) -> float:
        """Over the whole trace."""
        return sum(self.servers) / len(self.servers)

    def smooth(self, seconds: float) -> "Work":
        """Means over windows of `seconds` around each slot."""
        half = int(min(seconds / SLOT_SECONDS / 2, len(self.servers)))
        sums = [0.0]
        for each in self.servers:
            sums.append(sums[-1] + each)
        count = len(self.servers)
        ends = ((max(i - half, 0), min(i + half + 1, count)) for i in range(count))
        return Work(tuple((sums[b] - sums[a]) / (b - a) for a, b in ends))


def schedule(
    work: Work, setup: Setup, *, use: float, window_seconds: float, calm_seconds: float = 0.0
) -> Schedule:
    """The least servers at each time whose use stays at `use`, started just early enough.

    A server that would be missed again before its successor could start is kept. With
    `calm_seconds`, no change undoes another sooner, the first being that of the initial size.
    """
    needed = [
        min(max(math.ceil(each / use), 1), setup.max_replicas)
        for each in work.smooth(window_seconds).servers
    ]
    ahead = math.ceil(setup.startup_seconds / SLOT_SECONDS)
    started = [max(needed[i : i + ahead + 1]) for i in range(len(needed))]
    sizes = _bridge(started, ahead)
    if calm_seconds:
        sizes = _calm([setup.initial, *sizes], math.ceil(calm_seconds / SLOT_SECONDS))
    runs = [(size, len(list(same))) for size, same in groupby(sizes)]
    starts, slot = [], 0
    for _, length in runs:
        starts.append(slot * SLOT_SECONDS)
        slot += length
    return Schedule(sizes=tuple(size for size, _ in runs), starts=tuple(starts))


def _calm(sizes: Sequence[int], slots: int) -> list[int]:
    """`sizes` but the first, with each rise kept for `slots` and dips as short filled up."""
    kept = list(sizes)
    for level in range(1, max(kept) + 1):
        risen = -slots
        for slot in range(1, len(kept)):
            if kept[slot - 1] < level <= kept[slot]:
                risen = slot
            elif kept[slot] < level <= kept[slot - 1] and slot - risen < slots:
                kept[slot] = level
    return _bridge(kept, slots)[1:]


def _bridge(sizes: Sequence[int], gap: int) -> list[int]:
    """`sizes` with dips no longer than `gap` slots filled up."""
    bridged = list(sizes)
    for level in range(max(sizes), 0, -1):
        last = None
        for slot, size in enumerate(bridged):
            if size >= level:
                if last is not None and 1 < slot - last <= gap + 1:
                    bridged[last + 1 : slot] = [max(s, level) for s in bridged[last + 1 : slot]]
                last = slot
    return bridged
