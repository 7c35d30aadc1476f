"""What the autoscaler remembers: its own changes, how long a start takes, where the demand goes.

A server that is asked for now helps after a start's time. So sizes are chosen for the demand by
then: its trend, and, as with the safety stock of a store that waits for its deliveries, a reserve
for what is not foreseen. A size that shrinks is to do for as long as one that grew is kept: so the
reserve is measured by the most that came in such a time, in the last hour, beyond the trend.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import fmean
from typing import Self

from kvarn_operator.behavior import Change, Past
from kvarn_operator.pressure import Fleet
from kvarn_operator.readings import WINDOW_SECONDS

UNMEASURED_START_SECONDS = 120.0
"""What a start is taken to last until one was seen: vLLM with its compile cache warm."""
NOTE_SECONDS = 15.0
"""Between two notes of the demand."""
TREND_SECONDS = 300.0
"""How far back a trend looks."""
LEAST_NOTES = 16
"""From so many on, a trend is one."""
STANDARD_ERRORS = 0.5
"""By which a trend must differ from none: noise is no trend."""
FURTHEST_SECONDS = 600.0
"""What comes later no trend of five minutes tells; a start may have waited hours for a node."""
STEEPEST = 2.0
"""By which the trend may multiply the demand, at most; and the reserve, in its first hour."""
DRAIN_SECONDS = 120.0
"""Time in which a queue of prompts is to be worked off, once the servers for it are there."""
MEMORY_SECONDS = 3600.0
"""How long a surprise is remembered."""
COVERED_SHARE = 2 / 3
"""Of the surprises of the last hour, what the reserve covers."""
CALM_SECONDS = 600.0
"""For so long after it shrank, a size needs a better reason to grow again; and, by default, it is
kept for so long after it grew."""

Note = tuple[datetime, float]
"""(time, servers)"""


@dataclass(frozen=True, slots=True)
class Start:
    """Servers that were asked for: at `at`, to reach a size of `size`."""

    at: datetime
    size: int


@dataclass(frozen=True, slots=True)
class Foresight:
    """What was foreseen at one time, and what came of it.

    Attributes:
        until: when it is to be judged.
        servers: that were foreseen.
        peak: the most that has come in since.
    """

    until: datetime
    servers: float
    peak: float = 0.0


@dataclass(frozen=True, slots=True)
class History(Past):
    """The past, as far as decisions look back.

    Attributes:
        demand: that comes in, every `NOTE_SECONDS`.
        foreseen: what it was foreseen to be, where that cannot be judged yet.
        surprises: the most that came, less what had been foreseen.
        surprised: when that was first known.
        held: a reserve from before a restart, and until when it holds.
        starts: not completed yet, the earliest first.
        start_seconds: that the last start took; None until one was seen.
        size: at the last decision; 0 before the first.
        grown: when it grew last, or was first seen.
        shrunk: when it shrank last; None if that is not known.
    """

    demand: tuple[Note, ...] = ()
    foreseen: tuple[Foresight, ...] = ()
    surprises: tuple[Note, ...] = ()
    surprised: datetime | None = None
    held: Note | None = None
    starts: tuple[Start, ...] = ()
    start_seconds: float | None = None
    size: int = 0
    grown: datetime | None = None
    shrunk: datetime | None = None

    def changed(self, change: Change) -> Self:
        """The history after one more change."""
        size = self.size + change.change
        starts = tuple(start for start in self.starts if start.size <= size)
        if change.change > 0:
            starts = (*starts, Start(change.at, size))
        return replace(
            self,
            changes=(*self.changes, change),
            starts=starts,
            size=size,
            grown=change.at if change.change > 0 else self.grown,
            shrunk=change.at if change.change < 0 else self.shrunk,
        )

    def seen(
        self, fleet: Fleet, *, current: int, now: datetime, calm_seconds: float = CALM_SECONDS
    ) -> Self:
        """The history after a look at `fleet`, whose size is kept for `calm_seconds`."""
        held = self.held if self.held and now < self.held[0] else None
        noted = self._started(fleet.ready, now)._noted(fleet, now, calm_seconds)
        return replace(noted, size=current, held=held)

    @property
    def ahead_seconds(self) -> float:
        """How far to look ahead: as long as a start takes, within reason."""
        return min(self.start_seconds or UNMEASURED_START_SECONDS, FURTHEST_SECONDS)

    def forecast(self, fleet: Fleet) -> float:
        """Servers for what comes in by the time that one started now is ready."""
        ahead = self.ahead_seconds + WINDOW_SECONDS / 2
        return min(fleet.incoming + max(self._slope(), 0.0) * ahead, fleet.incoming * STEEPEST)

    @property
    def reserve(self) -> float:
        """Servers for what is not foreseen."""
        return max(self._surprise, self.held[1] if self.held else 0.0)

    @property
    def _surprise(self) -> float:
        """Servers that covered what was not foreseen, for most of the last hour.

        In the first hour one burst may be most of what was seen, and a deployment that has nothing
        to do since would be held up by it.
        """
        if not self.surprises or self.surprised is None:
            return 0.0
        ordered = sorted(surprise for _, surprise in self.surprises)
        reserve = max(ordered[int(COVERED_SHARE * len(ordered))], 0.0)
        if is_calm(self.surprised, self.surprises[-1][0], seconds=MEMORY_SECONDS):
            return reserve
        _, incoming = self.demand[-1]
        return min(reserve, max((STEEPEST - 1) * incoming, 1.0))

    def queue_demand(self, fleet: Fleet, *, current: int, now: datetime) -> float:
        """Servers that would work off, in `DRAIN_SECONDS`, the queue as it will be by then.

        Until a server started now is ready, what comes in meets the ready servers, and later
        those that are loading as well.
        """
        ahead, loading = self.ahead_seconds, 0.0
        if self.starts:
            loading = max(ahead - (now - self.starts[-1].at).total_seconds(), 0.0)
        done = len(fleet.servers) * loading + current * (ahead - loading)
        left = max(fleet.backlog_seconds + fleet.busy * ahead - done, 0.0)
        return fleet.busy + left / DRAIN_SECONDS

    def _started(self, ready: int, now: datetime) -> Self:
        done = [start for start in self.starts if start.size <= ready]
        if not done:
            return self
        left = tuple(start for start in self.starts if start.size > ready)
        if not self.size:  # It ended while nobody looked.
            return replace(self, starts=left)
        return replace(self, starts=left, start_seconds=(now - done[-1].at).total_seconds())

    def _noted(self, fleet: Fleet, now: datetime, calm_seconds: float) -> Self:
        if not fleet.servers or fleet.stale or not fleet.watched:
            return self
        if self.demand and now - self.demand[-1][0] < timedelta(seconds=NOTE_SECONDS):
            return self
        demand = (*_since(self.demand, now, TREND_SECONDS), (now, fleet.incoming))
        noted = replace(self, demand=demand, grown=self.grown or now)._judged(fleet.incoming, now)
        latest = Foresight(now + timedelta(seconds=calm_seconds), noted.forecast(fleet))
        return replace(noted, foreseen=(*noted.foreseen, latest))

    def _judged(self, incoming: float, now: datetime) -> Self:
        """Note how wrong was what had been foreseen, as far as its time is over."""
        foreseen = [replace(each, peak=max(each.peak, incoming)) for each in self.foreseen]
        over = [(now, each.peak - each.servers) for each in foreseen if each.until <= now]
        return replace(
            self,
            foreseen=tuple(each for each in foreseen if each.until > now),
            surprises=(*_since(self.surprises, now, MEMORY_SECONDS), *over),
            surprised=self.surprised or (now if over else None),
        )

    def _slope(self) -> float:
        """Servers a second, by least squares, less `STANDARD_ERRORS`.

        Notes are means over windows that overlap, so fewer of them are independent.
        """
        count = len(self.demand)
        if count < LEAST_NOTES:
            return 0.0
        first, mean = self.demand[0][0], fmean(value for _, value in self.demand)
        times = [(at - first).total_seconds() for at, _ in self.demand]
        middle = fmean(times)
        notes = [(t - middle, note[1] - mean) for t, note in zip(times, self.demand, strict=True)]
        spread = sum(t * t for t, _ in notes)
        slope = sum(t * value for t, value in notes) / spread
        scatter = sum((value - slope * t) ** 2 for t, value in notes) / (count - 2)
        error = math.sqrt(scatter / spread * WINDOW_SECONDS / NOTE_SECONDS)
        return slope - STANDARD_ERRORS * error


def is_calm(change: datetime | None, now: datetime, *, seconds: float = CALM_SECONDS) -> bool:
    """Whether a change is long past, or none is known."""
    return change is None or now - change >= timedelta(seconds=seconds)


def _since(notes: tuple[Note, ...], now: datetime, seconds: float) -> tuple[Note, ...]:
    oldest = now - timedelta(seconds=seconds)
    return tuple(note for note in notes if note[0] > oldest)
