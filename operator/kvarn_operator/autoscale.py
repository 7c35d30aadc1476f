"""The built-in autoscaler: a pure function of what the servers say, the rules and the time.

Growing: the demand of all ready servers, in tokens, divided by what one can carry. Since that is
an absolute number, servers that are still loading are credited: they count as intended.
Shrinking: only if the remaining servers would stay well under their target.
Windows and step limits mean what they mean for a HorizontalPodAutoscaler.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self

from kvarn_operator.api.spec import Autoscaling, ScalingPolicy
from kvarn_operator.pressure import Fleet, Part, coarse

TOLERANCE = 0.1
"""Over its target by less than this, the size stays, as with a HorizontalPodAutoscaler."""
SHRINK_TARGET = 0.7
"""After shrinking, the mean load must not be more than this."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of size."""

    at: datetime
    change: int


@dataclass(frozen=True, slots=True)
class History:
    """What was called for and what was done, as far back as a window or a period looks.

    Attributes:
        wanted: (time, size that the demand called for).
        changes: changes of size.
    """

    wanted: tuple[tuple[datetime, int], ...] = ()
    changes: tuple[Change, ...] = ()

    def changed(self, change: Change) -> Self:
        """The history after one more change."""
        return replace(self, changes=(*self.changes, change))


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
    size = _Size(current=current, rules=rules, now=now)
    wanted, why = _wanted(fleet, current)
    history = size.remember(history, wanted)
    urgent = wanted > current and any(server.parts.rejections for server in fleet.servers)
    steady = wanted if urgent else size.stabilised(history, wanted)
    replicas = size.bounded(size.stepped(history, steady))
    if steady == current != replicas:
        why = "OutOfBounds"
    said = _explain(fleet, why, rules=rules, current=current, wanted=wanted, replicas=replicas)
    return Decision(
        replicas=replicas,
        reason=said[0],
        message=said[1],
        active=bool(fleet.servers) and not fleet.stale,
        history=history,
    )


def deletion_costs(fleet: Fleet) -> dict[str, int]:
    """``pod-deletion-cost`` of each server: the one with the least work to lose goes first."""
    return {
        server.name: 100 * server.running + round(100 * server.usage) for server in fleet.servers
    }


def _wanted(fleet: Fleet, current: int) -> tuple[int, str]:
    """What the demand calls for, and in a word why; `current` where there is no evidence."""
    if not fleet.servers:
        return current, "MetricsStale" if fleet.stale else "NoReadyReplicas"
    capacity = sum(server.capacity_tokens for server in fleet.servers) / len(fleet.servers)
    demand = sum(server.demand_tokens for server in fleet.servers) / capacity
    if demand > current * (1 + TOLERANCE):
        loudest = max(fleet.servers, key=lambda server: server.parts.index)
        return math.ceil(demand), _REASONS[loudest.parts.limited_by]
    if any(server.parts.rejections for server in fleet.servers) and len(fleet.servers) >= current:
        return current + 1, "Rejections"
    if fleet.stale:
        return current, "MetricsStale"
    load = sum(server.load * server.capacity_tokens for server in fleet.servers) / capacity
    enough = max(math.ceil(load / SHRINK_TARGET), 1)
    return (enough, "LowPressure") if enough < current else (current, "WithinTarget")


_REASONS: dict[Part, str] = {
    "cache": "CacheFull",
    "running": "SequencesFull",
    "waiting": "RequestsWaiting",
    "preemptions": "Preemptions",
    "rejections": "Rejections",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """The present size, the rules for changing it, and the time."""

    current: int
    rules: Autoscaling
    now: datetime

    def remember(self, history: History, wanted: int) -> History:
        """`history` with `wanted`, without what no window and no period looks back to.

        A first decision remembers the size that it found: a restart must not shorten a window.
        """
        up, down = self.rules.behavior.scale_up, self.rules.behavior.scale_down
        window = max(up.stabilization_window_seconds, down.stabilization_window_seconds)
        period = max(policy.period_seconds for policy in (*up.policies, *down.policies))
        seen = history.wanted or ((self.now, self.current),)
        return History(
            wanted=(*(past for past in seen if self._within(past[0], window)), (self.now, wanted)),
            changes=tuple(past for past in history.changes if self._within(past.at, period)),
        )

    def stabilised(self, history: History, wanted: int) -> int:
        """`wanted`, held back to the least (the most) that its window called for."""
        up = self.rules.behavior.scale_up.stabilization_window_seconds
        down = self.rules.behavior.scale_down.stabilization_window_seconds
        floor = min([wanted, *(size for at, size in history.wanted if self._within(at, up))])
        ceiling = max([wanted, *(size for at, size in history.wanted if self._within(at, down))])
        return min(max(self.current, floor), ceiling)

    def stepped(self, history: History, wanted: int) -> int:
        """`wanted`, or as far towards it as the step limits allow."""
        up, down = self.rules.behavior.scale_up, self.rules.behavior.scale_down
        if wanted > self.current and up.select_policy != "Disabled":
            limits = [_raised(policy, self._start(history, policy)) for policy in up.policies]
            furthest = max(limits) if up.select_policy == "Max" else min(limits)
            return max(self.current, min(wanted, furthest))
        if wanted < self.current and down.select_policy != "Disabled":
            limits = [_lowered(policy, self._start(history, policy)) for policy in down.policies]
            furthest = min(limits) if down.select_policy == "Max" else max(limits)
            return min(self.current, max(wanted, furthest))
        return self.current

    def bounded(self, wanted: int) -> int:
        """`wanted` within the bounds."""
        least = self.rules.min_replicas
        return min(max(wanted, least), self.rules.max_replicas or least)

    def _start(self, history: History, policy: ScalingPolicy) -> int:
        """The size when the policy's period began."""
        recent = (
            past.change for past in history.changes if self._within(past.at, policy.period_seconds)
        )
        return self.current - sum(recent)

    def _within(self, at: datetime, seconds: float) -> bool:
        return self.now - at < timedelta(seconds=seconds)


def _raised(policy: ScalingPolicy, start: int) -> int:
    if policy.type == "Pods":
        return start + policy.value
    return math.ceil(start * (1 + policy.value / 100))


def _lowered(policy: ScalingPolicy, start: int) -> int:
    if policy.type == "Pods":
        return start - policy.value
    return math.floor(start * (1 - policy.value / 100))


def _explain(
    fleet: Fleet, why: str, *, rules: Autoscaling, current: int, wanted: int, replicas: int
) -> tuple[str, str]:
    """A word and a sentence; at rest the sentence holds no number that moves."""
    if why in _AT_REST:
        return why, _AT_REST[why].format(pods=_silent(fleet))
    if why == "OutOfBounds":
        return why, f"The size was outside its bounds: from {current} to {replicas}."
    calls = f"A pressure of {coarse(fleet.percent or 0)} % calls for a size of {wanted}"
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
