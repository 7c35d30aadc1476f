"""Windows and step limits, with the names and the meaning of a HorizontalPodAutoscaler's.

See `behavior` in the API of HorizontalPodAutoscaler v2, and `stabilizeRecommendationWithBehaviors`
and `convertDesiredReplicasWithBehaviorRate` in Kubernetes' `pkg/controller/podautoscaler`.
"""

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Self, TypeVar

from kvarn_operator.api.autoscaling import Behavior, ScalingPolicy

TOLERANCE = 0.1
"""What differs from the present size by no more than this share is noise."""
CALM_WINDOWS = 2
"""For so many of its windows for shrinking a size is kept after it grew."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of size."""

    at: datetime
    change: int


@dataclass(frozen=True, slots=True)
class Past:
    """What was called for and what was done, as far back as a window or a period looks.

    Attributes:
        wanted: (time, size that the demand called for).
        changes: changes of size.
    """

    wanted: tuple[tuple[datetime, int], ...] = ()
    changes: tuple[Change, ...] = ()

    def changed(self, change: Change) -> Self:
        """The past after one more change."""
        return replace(self, changes=(*self.changes, change))


SomePast = TypeVar("SomePast", bound=Past)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limiter:
    """The present size, the rules for changing it, and the time."""

    current: int
    behavior: Behavior
    now: datetime

    def remember(self, past: SomePast, wanted: int) -> SomePast:
        """`past` with `wanted`, without what no window and no period looks back to.

        The first time, the size that was found counts too: a restart must not shorten a window.
        """
        up, down = self.behavior.scale_up, self.behavior.scale_down
        window = max(up.stabilization_window_seconds, down.stabilization_window_seconds)
        period = max(policy.period_seconds for policy in (*up.policies, *down.policies))
        seen = past.wanted or ((self.now, self.current),)
        oldest, oldest_change = self._before(window), self._before(period)
        return replace(
            past,
            wanted=(*(each for each in seen if each[0] > oldest), (self.now, wanted)),
            changes=tuple(each for each in past.changes if each.at > oldest_change),
        )

    @property
    def calm_seconds(self) -> float:
        """How long a size is kept that just grew: the window tells how patient the user is."""
        return CALM_WINDOWS * self.behavior.scale_down.stabilization_window_seconds

    def stabilised(self, past: Past, wanted: int) -> int:
        """`wanted`, held back to the least (the most) that its window called for."""
        up = self._before(self.behavior.scale_up.stabilization_window_seconds)
        down = self._before(self.behavior.scale_down.stabilization_window_seconds)
        floor = min([wanted, *(size for at, size in past.wanted if at > up)])
        ceiling = max([wanted, *(size for at, size in past.wanted if at > down)])
        return min(max(self.current, floor), ceiling)

    def stepped(self, past: Past, wanted: int) -> int:
        """`wanted`, or as far towards it as the step limits allow."""
        up, down = self.behavior.scale_up, self.behavior.scale_down
        if wanted > self.current and up.select_policy != "Disabled":
            limits = [_raised(policy, self._start(past, policy)) for policy in up.policies]
            furthest = max(limits) if up.select_policy == "Max" else min(limits)
            return max(self.current, min(wanted, furthest))
        if wanted < self.current and down.select_policy != "Disabled":
            limits = [_lowered(policy, self._start(past, policy)) for policy in down.policies]
            furthest = min(limits) if down.select_policy == "Max" else max(limits)
            return min(self.current, max(wanted, furthest))
        return self.current

    def _start(self, past: Past, policy: ScalingPolicy) -> int:
        """The size when the policy's period began."""
        oldest = self._before(policy.period_seconds)
        return self.current - sum(each.change for each in past.changes if each.at > oldest)

    def _before(self, seconds: float) -> datetime:
        return self.now - timedelta(seconds=seconds)


def _raised(policy: ScalingPolicy, start: int) -> int:
    if policy.type == "Pods":
        return start + policy.value
    return math.ceil(start * (1 + policy.value / 100))


def _lowered(policy: ScalingPolicy, start: int) -> int:
    if policy.type == "Pods":
        return start - policy.value
    return math.floor(start * (1 - policy.value / 100))
