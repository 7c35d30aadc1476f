"""What the autoscaler remembers: its own changes, how long a start takes, where the demand goes."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from statistics import fmean
from typing import Self

from kvarn_operator.behavior import Change, Past
from kvarn_operator.pressure import Fleet

UNMEASURED_START_SECONDS = 120.0
"""What a start is taken to last until one was seen: vLLM with its compile cache warm."""
TREND_SECONDS = 300.0
"""How far back a trend looks."""
NOTE_SECONDS = 15.0
"""Between two notes of the demand."""
CALM_SECONDS = 600.0
"""A change is not undone within this time unless the demand itself, not its trend, calls for it."""
STEEPEST = 2.0
"""By which the trend may multiply the demand, at most."""


@dataclass(frozen=True, slots=True)
class Start:
    """Servers that were asked for: at `at`, to reach a size of `size`."""

    at: datetime
    size: int


@dataclass(frozen=True, slots=True)
class History(Past):
    """The past, as far as decisions look back.

    Attributes:
        demand: (time, size that would have carried it at the target), every `NOTE_SECONDS`.
        starts: not completed yet, the earliest first.
        start_seconds: that the last start took; None until one was seen.
        size: at the last decision.
        grown: when it grew last; None if that is not known.
        shrunk: likewise.
    """

    demand: tuple[tuple[datetime, float], ...] = ()
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

    def seen(self, fleet: Fleet, *, current: int, now: datetime) -> Self:
        """The history after a look at `fleet`."""
        return replace(self._started(fleet.ready, now)._noted(fleet, now), size=current)

    def forecast(self, demand: float) -> float:
        """`demand` by the time that a server started now would be ready, if it goes on so."""
        ahead = self.start_seconds or UNMEASURED_START_SECONDS
        slope = self._slope()
        return min(demand + max(slope, 0.0) * ahead, demand * STEEPEST)

    def calm(self, since: datetime | None, now: datetime) -> bool:
        """Whether a change at `since` is long past."""
        return since is None or now - since >= timedelta(seconds=CALM_SECONDS)

    def _started(self, ready: int, now: datetime) -> Self:
        done = [start for start in self.starts if start.size <= ready]
        if not done:
            return self
        return replace(
            self,
            starts=tuple(start for start in self.starts if start.size > ready),
            start_seconds=(now - done[-1].at).total_seconds(),
        )

    def _noted(self, fleet: Fleet, now: datetime) -> Self:
        if not fleet.servers or fleet.stale:
            return self
        if self.demand and now - self.demand[-1][0] < timedelta(seconds=NOTE_SECONDS):
            return self
        oldest = now - timedelta(seconds=TREND_SECONDS)
        kept = (note for note in self.demand if note[0] > oldest)
        return replace(self, demand=(*kept, (now, fleet.demand)))

    def _slope(self) -> float:
        """Servers a second, by least squares."""
        if len(self.demand) < 8:
            return 0.0
        times = [(at - self.demand[0][0]).total_seconds() for at, _ in self.demand]
        values = [value for _, value in self.demand]
        mean_time, mean = fmean(times), fmean(values)
        moved = [time - mean_time for time in times]
        spread = sum(each * each for each in moved)
        return sum(a * (b - mean) for a, b in zip(moved, values, strict=True)) / spread
