"""What the autoscaler knows after a restart of the operator, and what it does until then."""

from dataclasses import replace
from typing import Any

import pytest

from kvarn_operator import checkpoint, status
from kvarn_operator.api.autoscaling import Autoscaling
from kvarn_operator.api.base import timestamp
from kvarn_operator.api.status import Checkpoint, LastScale, Status
from kvarn_operator.autoscale import Change, History, decide
from kvarn_operator.observe import Observed
from kvarn_operator.outlook import Start
from kvarn_operator.pressure import Fleet, Parts, Server
from kvarn_operator.readings import Cost, Reading
from kvarn_operator.scene import Scene
from kvarn_operator.scrape import Sample
from tests.operator_logic.builders import NOW, later, planned, target

QUIET = Server(name="a", parts=Parts(), load=0.0, capacity_tokens=1000, running=0, usage=0.0)
IDLE = Sample(usage=0.0, running=0, waiting=0)
AT_ONCE = Autoscaling.model_validate(
    {"maxReplicas": 10, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}
)


def scaled(before: int, after: int) -> LastScale:
    return LastScale(
        time=timestamp(NOW), from_replicas=before, to_replicas=after, reason="", message=""
    )


def restarted(history: History, *readings: Reading, last: LastScale | None = None) -> Status:
    """The status that an operator with this history leaves, five minutes from `NOW`."""
    learnt = checkpoint.take(history, readings, now=later(300))
    return Status.model_validate_json(
        Status(checkpoint=learnt, last_scale=last).model_dump_json(by_alias=True)
    )


def test_what_was_learnt_is_there_again() -> None:
    history = History(start_seconds=95.0, grown=later(10), shrunk=NOW)

    again = checkpoint.restore(restarted(history), current=3)

    assert again == history


def test_what_knows_nothing_is_not_kept() -> None:
    """The API server makes null of an empty checkpoint, and refuses that."""
    assert checkpoint.take(History(), [], now=NOW) is None


def test_what_a_token_costs_is_there_again() -> None:
    seen = Reading(at=NOW, sample=IDLE, template="new", token_seconds=12.5e-6, cost_is_seen=True)
    elsewhere = replace(seen, cost_is_seen=False)

    assert checkpoint.cost(restarted(History(), seen)) == Cost(pytest.approx(12.5e-6), "new")
    assert checkpoint.cost(restarted(History(), elsewhere)) == Cost(pytest.approx(12.5e-6), None)
    assert checkpoint.cost(Status()) == Cost()


def test_a_checkpoint_of_an_earlier_operator_is_understood() -> None:
    written = {"checkpoint": {"tokenNanoseconds": 12500, "regrettedTime": timestamp(NOW)}}

    status = Status.model_validate(written)

    assert checkpoint.cost(status) == Cost(pytest.approx(12.5e-6), None)
    assert checkpoint.restore(status, current=1) == History()


def test_a_reserve_holds_for_its_hour_however_often_the_operator_restarts() -> None:
    first = checkpoint.restore(restarted(History(held=(later(900), 1.5))), current=3)
    again = checkpoint.restore(restarted(first), current=3)
    fleet = Fleet(servers=(QUIET,) * 3)

    assert again.reserve == 1.5
    assert again.seen(fleet, current=3, now=later(899)).reserve == 1.5
    assert again.seen(fleet, current=3, now=later(901)).reserve == 0.0


def test_servers_that_load_are_still_credited_and_timed() -> None:
    again = checkpoint.restore(Status(last_scale=scaled(1, 3)), current=3)
    loading = again.seen(Fleet(servers=(QUIET,)), current=3, now=later(60))
    ready = loading.seen(Fleet(servers=(QUIET,) * 3), current=3, now=later(90))

    assert again.starts == (Start(NOW, 3),)
    assert ready.start_seconds == 90.0


def test_a_start_that_ended_while_nobody_looked_is_not_timed() -> None:
    again = checkpoint.restore(Status(last_scale=scaled(1, 3)), current=3)

    ready = again.seen(Fleet(servers=(QUIET,) * 3), current=3, now=later(7200))

    assert (ready.start_seconds, ready.starts) == (None, ())


def test_a_size_that_just_grew_is_kept() -> None:
    """Its window had passed, were it counted from the restart."""
    history = History(size=1).changed(Change(NOW, 2))
    again = checkpoint.restore(restarted(history, last=scaled(1, 3)), current=3)
    rules = Autoscaling(max_replicas=10)

    for seconds in range(300, 600, 15):
        made = decide(
            Fleet(servers=(QUIET,) * 3),
            current=3,
            rules=rules,
            history=again,
            now=later(seconds),
        )
        again = made.history
        assert made.replicas == 3


def test_nothing_shrinks_before_rates_can_be_told() -> None:
    quiet = Fleet(servers=(QUIET,) * 3, watched=False)

    blind = decide(quiet, current=3, rules=AT_ONCE, history=History(), now=NOW)
    seeing = decide(
        replace(quiet, watched=True), current=3, rules=AT_ONCE, history=History(), now=NOW
    )

    assert (blind.replicas, blind.reason, blind.history.demand) == (3, "WithinTarget", ())
    assert seeing.replicas < 3


def built(old: Status, learnt: Checkpoint, **changes: Any) -> Status:
    at = target().model_copy(update={"status": old})
    scene = Scene(target=at, outcome=planned(at), observed=Observed.of((), ()), **changes)
    return status.build(scene, fleet=Fleet(), readings={}, learnt=learnt, now=NOW)


def test_it_is_written_only_along_with_something_else() -> None:
    first = built(Status(), Checkpoint(token_nanoseconds=1))

    assert first.checkpoint == Checkpoint(token_nanoseconds=1)
    assert built(first, Checkpoint(token_nanoseconds=2)) == first
    changed = built(first, Checkpoint(token_nanoseconds=2), desired=2)
    assert changed.checkpoint == Checkpoint(token_nanoseconds=2)
