"""The built-in autoscaler: a pure function of what the servers say, the rules and the time.

Growing: the demand of all ready servers, in tokens, or what trend and queue make of it by the time
that a server started now is ready, divided by what one can carry. Since that is an absolute number,
servers that are still loading are credited: they count as intended.
Shrinking: only if the remaining servers would stay well under their target, with a reserve for what
is not foreseen.
Windows and step limits mean what they mean for a HorizontalPodAutoscaler.
"""

import math
from dataclasses import dataclass
from datetime import datetime

from kvarn_operator.api.autoscaling import Autoscaling
from kvarn_operator.behavior import TOLERANCE, Change, Limiter
from kvarn_operator.outlook import History, is_calm
from kvarn_operator.pressure import Fleet, Part, coarse

__all__ = ["Change", "Decision", "History", "decide"]

CALM_TOLERANCE, CALM_TREND_TOLERANCE = 0.15, 0.25
"""Instead of `TOLERANCE`, shortly after shrinking: for what there is and for what its trend makes
of it."""
SHRINK_TARGET = 0.85
"""After shrinking, the mean load must not be more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the size should be.

    Attributes:
        active: whether there was evidence to decide on.
        history: to go on from; the change itself is not in it, as it may yet fail.
    """

    replicas: int
    reason: str
    message: str
    active: bool
    history: History


def decide(
    fleet: Fleet, *, current: int, rules: Autoscaling, history: History, now: datetime
) -> Decision:
    """The size that `fleet` calls for, within `rules`.

    Args:
        fleet: the ready servers.
        current: the size that is wanted now, loading servers included.
        rules: bounds, target, windows and step limits.
        history: from the decision before.
        now: the time.
    """
    limiter = Limiter(current=current, behavior=rules.behavior, now=now)
    history = history.seen(fleet, current=current, now=now, calm_seconds=limiter.calm_seconds)
    wanted, why = _wanted(fleet, current, history, now)
    past = limiter.remember(history, wanted)
    urgent = wanted > current and any(server.parts.rejections for server in fleet.servers)
    steady = wanted if urgent else limiter.stabilised(past, wanted)
    if not is_calm(history.grown, now, seconds=limiter.calm_seconds):
        steady = max(steady, current)
    replicas = _bounded(limiter.stepped(past, steady), rules)
    if steady == current != replicas:
        why = "OutOfBounds"
    said = _explain(fleet, why, rules=rules, current=current, wanted=wanted, replicas=replicas)
    return Decision(
        replicas=replicas,
        reason=said[0],
        message=said[1],
        active=bool(fleet.servers) and not fleet.stale,
        history=past,
    )


def _wanted(fleet: Fleet, current: int, history: History, now: datetime) -> tuple[int, str]:
    """What the demand calls for, and in a word why; `current` where there is no evidence."""
    if not fleet.servers:
        return current, "MetricsStale" if fleet.stale else "NoReadyReplicas"
    more, why = _more(fleet, current, history, now)
    if more > current:
        return more, why
    if fleet.stale:
        return current, "MetricsStale"
    enough = _enough(fleet, history)
    if enough < current and fleet.watched:
        return enough, "LowPressure"
    return current, "WithinTarget"


def _enough(fleet: Fleet, history: History) -> int:
    """The least size that carries what is handed over, and what comes until it may grow again.

    A server that goes takes prefixes along. As hits are a concave function of the size of a cache,
    `m` of `n` servers keep `m / n` of them at least, and compute the others: `m` is enough if
    `load + reused * (1 - m / n) <= m`.
    """
    handed = (fleet.load + fleet.reused) / (1 + fleet.reused / len(fleet.servers))
    foreseen = history.forecast(fleet) + history.reserve
    return max(math.ceil(max(fleet.load / SHRINK_TARGET, handed, foreseen)), 1)


def _more(fleet: Fleet, current: int, history: History, now: datetime) -> tuple[int, str]:
    """A larger size and why; `current` if none is called for."""
    calm = is_calm(history.shrunk, now)
    limit = current * (1 + (TOLERANCE if calm else CALM_TOLERANCE))
    trend_limit = limit if calm else current * (1 + CALM_TREND_TOLERANCE)
    queue = history.queue_demand(fleet, current=current, now=now)
    coming = history.forecast(fleet)
    if queue > max(limit, fleet.demand):
        return math.ceil(max(queue, coming)), "RequestsWaiting"
    if fleet.demand > limit:
        return math.ceil(max(fleet.demand, coming)), _REASONS[fleet.limited_by]
    if coming > trend_limit:
        return math.ceil(coming), "DemandRising"
    if len(fleet.servers) >= current and (why := _alarm(fleet)):
        # One more, or as many as another owner of the size does not take for noise.
        return math.floor(current * (1 + TOLERANCE)) + 1, why
    return current, ""


def _alarm(fleet: Fleet) -> str:
    """Why more is wanted whatever the numbers say, one of `_ALARMS`; empty if nothing is amiss."""
    if any(server.parts.rejections for server in fleet.servers):
        return "Rejections"
    return "QueueStanding" if fleet.is_outrun else ""


_ALARMS = {
    "Rejections": "Turning requests away",
    "QueueStanding": "A queue that never empties before any server",
}


_REASONS: dict[Part, str] = {
    "cache": "CacheFull",
    "compute": "ComputeFull",
    "running": "SequencesFull",
    "waiting": "RequestsWaiting",
    "preemptions": "Preemptions",
    "rejections": "Rejections",
}


def _bounded(wanted: int, rules: Autoscaling) -> int:
    """`wanted` within the bounds."""
    least = rules.min_replicas
    return min(max(wanted, least), rules.max_replicas or least)


def _explain(
    fleet: Fleet, why: str, *, rules: Autoscaling, current: int, wanted: int, replicas: int
) -> tuple[str, str]:
    """A word and a sentence; at rest the sentence holds no number that moves."""
    if why in _AT_REST:
        return why, _AT_REST[why].format(pods=_silent(fleet))
    if why == "OutOfBounds":
        return why, f"The size was outside its bounds: from {current} to {replicas}."
    subject = _ALARMS.get(why, f"A pressure of {coarse(fleet.percent or 0)} %")
    calls = f"{subject} calls for a size of {wanted}"
    if replicas != current:
        return why, f"{calls}: from {current} to {replicas}."
    if wanted > current == rules.max_replicas:
        return "AtMaximum", f"{calls}, and maxReplicas is {current}."
    if wanted < current == rules.min_replicas:
        return "AtMinimum", "The pressure is low, and the size is minReplicas."
    return "Stabilizing", f"{calls}; windows and step limits keep {current} for now."


_AT_REST = {
    "WithinTarget": "The pressure is within its target.",
    "MetricsStale": "The size stays, as there are no fresh metrics from {pods}.",
    "NoReadyReplicas": "The size stays until a replica is ready.",
}


def _silent(fleet: Fleet) -> str:
    first = fleet.stale[0] if fleet.stale else ""
    error = f" ({fleet.errors[first]})" if first in fleet.errors else ""
    more = f" and {len(fleet.stale) - 1} more" if len(fleet.stale) > 1 else ""
    return f"{first}{error}{more}"
