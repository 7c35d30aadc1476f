"""Which changes of the status are news."""

from typing import Literal

from kvarn_operator.api.base import timestamp
from kvarn_operator.api.status import Condition, LastScale, Status
from kvarn_operator.events import Event, events
from tests.operator_logic.builders import NOW


def condition(kind: str, status: Literal["True", "False"], reason: str) -> Condition:
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message="Why.",
        last_transition_time=timestamp(NOW),
    )


def between(old: list[Condition], new: list[Condition]) -> list[Event]:
    return events(Status(conditions=old), Status(conditions=new))


def test_only_changes_are_events() -> None:
    before, after = condition("Ready", "False", "Starting"), condition("Ready", "True", "Serving")

    assert between([before], [after]) == [Event("Normal", "Serving", "Ready is True: Why.")]
    assert between([after], [after]) == []


def test_bad_news_is_a_warning() -> None:
    (event,) = between([], [condition("Ready", "False", "InsufficientMemory")])

    assert event.type == "Warning"


def test_that_nothing_fails_is_news_only_after_something_did() -> None:
    fails = condition("Degraded", "True", "OutOfMemory")
    works = condition("Degraded", "False", "NoFailures")

    assert between([], [works]) == []
    assert [event.type for event in between([works], [fails])] == ["Warning"]
    assert [event.reason for event in between([fails], [works])] == ["NoFailures"]


def test_a_change_of_size_is_an_event() -> None:
    scaled = LastScale(time="", from_replicas=2, to_replicas=1, reason="LowPressure", message="m")

    assert events(Status(), Status(last_scale=scaled)) == [Event("Normal", "ScaledDown", "m")]
