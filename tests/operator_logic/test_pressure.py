"""How much work a server has."""

from dataclasses import replace

import pytest

from kvarn_operator.pressure import COMPUTE_TARGET, Parts, fleet, parts
from kvarn_operator.readings import Reading, Spoken, record
from kvarn_operator.scrape import Sample
from tests.operator_logic.builders import NOW, later

IDLE = Sample(usage=0.0, running=0, waiting=0, finished=100, cache_tokens=1000)


def pressed(sample: Sample, *, before: Sample = IDLE, most: int = 10) -> Parts:
    reading = Reading(at=later(5), sample=sample, past=(Spoken(NOW, before),))
    return parts(reading, target=0.8, max_sequences=most)


def test_an_idle_server_has_none() -> None:
    assert pressed(IDLE).index == 0


def test_a_cache_at_its_target_is_full() -> None:
    found = pressed(replace(IDLE, usage=0.8))

    assert (found.index, found.limited_by) == (1.0, "cache")


def test_running_sequences_count_only_while_something_waits() -> None:
    busy = replace(IDLE, running=10)

    assert pressed(busy).index == 0
    assert pressed(replace(busy, waiting=1)).running == 1.0


def test_waiting_sequences_count_against_those_that_may_run() -> None:
    found = pressed(replace(IDLE, running=10, waiting=15))

    assert (found.index, found.limited_by) == (2.5, "waiting")


def test_where_the_cache_binds_they_count_against_those_that_do_run() -> None:
    assert pressed(replace(IDLE, usage=0.9, running=2, waiting=4)).waiting == 3.0


def test_one_preemption_in_fifty_is_tolerated_and_more_press() -> None:
    tolerated = replace(IDLE, finished=150, preemptions=1)

    assert pressed(tolerated).preemptions == pytest.approx(1.0)
    assert pressed(replace(tolerated, preemptions=50)).preemptions == 2.0


def test_a_rejection_calls_for_a_second_server() -> None:
    assert pressed(replace(IDLE, rejections=1)).index == 2.0


def test_counters_that_began_anew_are_no_events() -> None:
    busy = replace(IDLE, preemptions=9, rejections=9)
    first = record({}, {"a": busy}, now=NOW)

    second = record(first, {"a": replace(IDLE, finished=0, rejections=9)}, now=later(1))

    assert pressed(second["a"].sample, before=second["a"].previous).index == 0


def ready(*names: str, sample: Sample = IDLE, after: float = 0) -> tuple[int, int, int]:
    """(awake, stale, asleep) of the ready pods `names` when only `a` was read, at `NOW`."""
    found = fleet(
        names,
        record({}, {"a": sample}, now=NOW),
        target=0.8,
        max_sequences=10,
        planned_tokens=500,
        now=later(after),
        poll_seconds=5,
    )
    return len(found.servers), len(found.stale), found.asleep


def test_servers_are_told_apart() -> None:
    assert ready("a") == (1, 0, 0)
    assert ready("a", "b") == (1, 1, 0)
    assert ready("a", sample=replace(IDLE, asleep=True)) == (0, 0, 1)
    assert ready("a", after=16) == (0, 1, 0)


def test_those_that_wait_count_once_it_can_be_told_how_soon_they_follow() -> None:
    """Just after the operator started it has seen nothing end, though much does."""
    readings: dict[str, Reading] = {}
    pressures = []
    for seconds in (0, 5, 10, 15):
        crowd = replace(IDLE, running=10, waiting=30, finished=100 + 5 * seconds)
        readings = record(readings, {"a": crowd}, now=later(seconds))
        found = fleet(
            ["a"],
            readings,
            target=0.8,
            max_sequences=10,
            planned_tokens=500,
            now=later(seconds),
            poll_seconds=5,
        )
        pressures.append(found.demand)

    assert pressures == pytest.approx([1.0, 1.0, 1.0, 1.1])


@pytest.mark.parametrize(("other", "outrun"), [(3, True), (0, False)])
def test_servers_are_outrun_if_a_queue_stands_before_each(other: int, outrun: bool) -> None:
    readings: dict[str, Reading] = {}
    for seconds in range(0, 65, 5):
        said = {pod: replace(IDLE, waiting=w) for pod, w in (("a", 2), ("b", other))}
        readings = record(readings, said, now=later(seconds))

    found = fleet(
        ["a", "b"],
        readings,
        target=0.8,
        max_sequences=10,
        planned_tokens=500,
        now=later(60),
        poll_seconds=5,
    )

    assert found.is_outrun == outrun


def test_a_server_of_an_earlier_plan_is_measured_by_what_it_was_started_with() -> None:
    """In a roll-out to servers that take four times as many it is as full as it was."""
    said = {pod: replace(IDLE, running=10, waiting=1) for pod in ("old", "new")}

    found = fleet(
        ["new", "old"],
        record({}, said, now=NOW),
        target=0.8,
        max_sequences=40,
        planned_tokens=500,
        limits={"old": 10},
        now=NOW,
        poll_seconds=5,
    )

    assert {server.name: server.parts.running for server in found.servers} == {
        "old": 1.0,
        "new": 0.25,
    }


def test_time_that_prompts_take_counts_against_its_target() -> None:
    busy = replace(IDLE, first_tokens=10, computed_tokens=9000)
    reading = Reading(
        at=later(10), sample=busy, past=(Spoken(NOW, IDLE),), token_seconds=0.001, window_seconds=20
    )

    found = parts(reading, target=0.8, max_sequences=10)

    assert (found.compute, found.limited_by) == (pytest.approx(0.45 / COMPUTE_TARGET), "compute")


def test_places_that_prompts_hold_up_are_left_to_the_prompts() -> None:
    """All time goes to prompts: those who decode keep their places long, and others wait for them.

    More servers would free both, so that they are not to be counted twice.
    """
    crowd = replace(IDLE, running=10, waiting=30, computed_tokens=20_000)
    computing = Reading(at=later(20), sample=crowd, past=(Spoken(NOW, IDLE),), token_seconds=0.001)
    decoding = replace(computing, token_seconds=0.0)

    pressures = [
        parts(reading, target=0.8, max_sequences=10).waiting for reading in (computing, decoding)
    ]

    assert pressures == [1.0, 4.0]


def test_queue_time_presses_only_where_a_target_is_given() -> None:
    late = replace(IDLE, queued=10, queue_seconds=40.0)
    reading = Reading(at=later(5), sample=late, past=(Spoken(NOW, IDLE),))

    found = parts(reading, target=0.8, max_sequences=10, queue_seconds=2.0)

    assert (found.waiting, pressed(late).waiting) == (2.0, 0.0)


def test_what_a_server_would_hand_over_includes_sequences_that_nothing_waits_behind() -> None:
    readings = record({}, {"a": replace(IDLE, running=7)}, now=NOW)

    found = fleet(
        ["a"],
        readings,
        target=0.8,
        max_sequences=10,
        planned_tokens=500,
        now=NOW,
        poll_seconds=5,
    )

    assert (found.demand, found.load, found.incoming) == (0.0, 0.7, 0.7)
