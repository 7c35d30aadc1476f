"""What the autoscaler has learnt, kept in the status for an operator that starts anew.

It is written only together with something else: a status at rest rests. Then nothing happens that
could be learnt from, either.
"""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta

from kvarn_operator.api.base import timestamp
from kvarn_operator.api.status import Checkpoint, LastScale, Status
from kvarn_operator.behavior import Change
from kvarn_operator.outlook import MEMORY_SECONDS, History
from kvarn_operator.readings import Cost, Reading


def take(history: History, readings: Collection[Reading], *, now: datetime) -> Checkpoint | None:
    """What `restore` will need of `history`, and what a token costs; None if nothing is known.

    The API server would make null, which it then refuses, of an empty one in the place of another.

    Args:
        history: the past.
        readings: the latest, of pods of one template.
        now: the time.
    """
    until = now + timedelta(seconds=MEMORY_SECONDS)
    if history.held and history.held[1] >= history.reserve:
        until, _ = history.held  # else it would be prolonged at each restart
    seen = max(readings, key=lambda reading: reading.cost_is_seen, default=None)
    found = Checkpoint(
        start_seconds=round(history.start_seconds) if history.start_seconds else None,
        token_nanoseconds=round(seen.token_seconds * 1e9) or None if seen else None,
        token_template=seen.template or None if seen and seen.cost_is_seen else None,
        reserve_percent=round(100 * history.reserve) or None,
        reserve_until=timestamp(until) if round(100 * history.reserve) else None,
        grown_time=_written(history.grown),
        shrunk_time=_written(history.shrunk),
    )
    return found if found != Checkpoint() else None


def restore(status: Status, *, current: int) -> History:
    """The history to go on from, by the status that another operator left.

    The trend of the last minutes is not in it: that is told anew in four.
    """
    history = _changed(status.last_scale, current=current)
    found = status.checkpoint
    if found is None:
        return history
    held = None
    if found.reserve_percent and (until := _read(found.reserve_until)):
        held = (until, found.reserve_percent / 100)
    return replace(
        history,
        start_seconds=found.start_seconds,
        held=held,
        grown=_read(found.grown_time) or history.grown,
        shrunk=_read(found.shrunk_time) or history.shrunk,
    )


def cost(status: Status) -> Cost:
    """What a token of a prompt was last seen to cost."""
    found = status.checkpoint
    if found is None:
        return Cost()
    return Cost((found.token_nanoseconds or 0) / 1e9, found.token_template)


def _changed(last: LastScale | None, *, current: int) -> History:
    """The latest change of size, and the start that it may have begun."""
    if last is None:
        return History()
    change = Change(datetime.fromisoformat(last.time), last.to_replicas - last.from_replicas)
    history = History(size=last.from_replicas).changed(change)
    starts = history.starts if last.to_replicas == current else ()
    return replace(history, starts=starts, size=0)


def _written(time: datetime | None) -> str | None:
    return timestamp(time) if time else None


def _read(time: str | None) -> datetime | None:
    return datetime.fromisoformat(time) if time else None
