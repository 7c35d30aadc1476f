"""The Events that a change of status amounts to."""

from dataclasses import dataclass

from kvarn_operator.api.status import Condition, LastScale, Status


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event without the object that it is about.

    Attributes:
        type: Normal or Warning.
    """

    type: str
    reason: str
    message: str


def events(old: Status, new: Status) -> list[Event]:
    """What changed in the conditions and in the size, as far as it is news."""
    before = {condition.type: condition for condition in old.conditions}
    told = [
        Event(
            "Warning" if _is_bad(condition) else "Normal",
            condition.reason,
            f"{condition.type} is {condition.status}: {condition.message}",
        )
        for condition in new.conditions
        if _is_news(condition, before.get(condition.type))
    ]
    if new.last_scale is not None and new.last_scale != old.last_scale:
        told.append(_scaling(new.last_scale))
    return told


def _scaling(last: LastScale) -> Event:
    grown = last.to_replicas > last.from_replicas
    return Event("Normal", "ScaledUp" if grown else "ScaledDown", last.message)


_GOOD = {"Ready": "True", "Planned": "True", "MemoryFits": "True", "Degraded": "False"}
_PASSING = frozenset({"Starting", "Inspecting"})


def _is_bad(condition: Condition) -> bool:
    bad = condition.status not in {"Unknown", _GOOD[condition.type]}
    return bad and condition.reason not in _PASSING


def _is_news(condition: Condition, before: Condition | None) -> bool:
    """Whether it changed; of `Degraded` and `MemoryFits`, only if it is or was bad."""
    if condition.type not in _GOOD:
        return False
    if before and (before.status, before.reason) == (condition.status, condition.reason):
        return False
    if condition.type in {"Ready", "Planned"}:
        return True
    return _is_bad(condition) or (before is not None and _is_bad(before))
