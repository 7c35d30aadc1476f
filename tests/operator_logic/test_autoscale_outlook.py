"""Looking ahead: trends, queues, surprises, and what a start was measured to take."""

from collections.abc import Callable

import pytest

from kvarn_operator.api.autoscaling import Autoscaling
from kvarn_operator.autoscale import Change, Decision, History, decide
from kvarn_operator.outlook import CALM_SECONDS, FURTHEST_SECONDS, UNMEASURED_START_SECONDS
from kvarn_operator.pressure import Fleet, Parts, Server
from tests.operator_logic.builders import NOW, later

RULES = Autoscaling(max_replicas=20)
POLL_SECONDS = 5.0
Demand = Callable[[float], float]


def fleet(demand: float, ready: int, *, backlog_seconds: float = 0.0) -> Fleet:
    """`ready` servers that share a demand of `demand` full ones."""
    share = demand / ready
    server = Server(
        name="a",
        parts=Parts(compute=share),
        load=share,
        incoming=share,
        capacity_tokens=1000,
        running=0,
        usage=0.0,
        backlog_seconds=backlog_seconds / ready,
    )
    return Fleet(servers=(server,) * ready)


def follow(demand: Demand, *, size: int, seconds: float) -> tuple[History, list[tuple[float, int]]]:
    """The history, and each change of size, while servers start at once."""
    history, changes = History(), []
    for poll in range(int(seconds / POLL_SECONDS)):
        now = poll * POLL_SECONDS
        made = decided(fleet(demand(now), size), size, history, now)
        history = made.history
        if made.replicas != size:
            changes.append((now, made.replicas))
            history = history.changed(Change(later(now), made.replicas - size))
            size = made.replicas
    return history, changes


def decided(seen: Fleet, size: int, history: History, now: float) -> Decision:
    return decide(seen, current=size, rules=RULES, history=history, now=later(now))


def watched(demand: Demand, *, seconds: int) -> History:
    """The history of eight servers that nobody starts or stops."""
    history = History()
    for now in range(0, seconds, 15):
        history = history.seen(fleet(demand(now), 8), current=8, now=later(now))
    return history


def test_a_rise_is_met_before_it_is_there() -> None:
    """One server more every seven minutes, from three on; four tolerate a load of 4.4."""

    def rise(now: float) -> float:
        return 3 + now / 400

    _, changes = follow(rise, size=4, seconds=900)

    at, size = changes[0]
    assert size >= 5
    assert rise(at) < 4.2


def test_a_demand_that_rests_has_no_trend() -> None:
    history, changes = follow(lambda _: 3.0, size=4, seconds=900)

    assert changes == []
    assert history.forecast(fleet(3.0, 4)) == pytest.approx(3.0)


def test_noise_is_no_trend() -> None:
    _, changes = follow(lambda now: 3.0 + 0.3 * ((now // 15) % 2), size=4, seconds=900)

    assert changes == []


def test_what_surprises_again_and_again_is_kept_in_reserve() -> None:
    history = watched(lambda now: 6.0 if now % 500 < 150 else 2.0, seconds=5000)

    assert history.reserve == pytest.approx(4.0, abs=0.5)
    assert decided(fleet(2.0, 8), 8, history, 5000).history.reserve == history.reserve


def test_a_burst_at_the_beginning_holds_at_most_twice_what_is_needed_now() -> None:
    """It would be most of what was seen until the hour is over."""
    history = watched(lambda now: 12.0 if 150 < now < 450 else 1.5, seconds=1080)

    assert history.reserve == pytest.approx(1.5)
    assert watched(lambda now: 12.0 if 150 < now < 450 else 0.0, seconds=1080).reserve == 1.0


def test_the_reserve_covers_the_most_that_comes_while_a_size_is_kept() -> None:
    """A peak of a minute in each ten is in every such time, though seldom at any moment."""
    history = watched(lambda now: 5.0 if now % 600 < 60 else 2.0, seconds=4800)

    assert history.reserve == pytest.approx(3.0, abs=0.5)


def test_a_peak_that_came_once_in_an_hour_is_not_kept_for() -> None:
    history = watched(lambda now: 5.0 if 1200 < now < 1260 else 2.0, seconds=4800)

    assert history.reserve == pytest.approx(0.0, abs=0.5)


def test_a_server_that_was_just_started_is_not_stopped_at_once() -> None:
    _, changes = follow(lambda now: 4.0 if now < 300 else 1.0, size=2, seconds=400 + CALM_SECONDS)
    sizes = [2, *(size for _, size in changes)]
    grown = max(at for (at, size), before in zip(changes, sizes, strict=False) if size > before)
    shrunk = [at for at, _ in changes if at > grown]

    assert shrunk[0] - grown == pytest.approx(CALM_SECONDS, abs=POLL_SECONDS)


def test_a_size_that_was_found_is_kept_as_one_that_grew() -> None:
    """Nobody knows yet what may come in the time that a smaller one would have to last."""
    _, changes = follow(lambda _: 1.0, size=4, seconds=100 + CALM_SECONDS)

    assert changes[0] == (CALM_SECONDS, 3)


def test_soon_after_shrinking_only_more_than_a_full_load_makes_it_grow() -> None:
    calm = History(size=2)
    soon = calm.changed(Change(NOW, 0)).changed(Change(NOW, -1))

    assert decided(fleet(2.25, 2), 2, calm, 0).replicas == 3
    assert decided(fleet(2.25, 2), 2, soon, 60).replicas == 2
    assert decided(fleet(2.4, 2), 2, soon, 60).replicas == 3


def test_a_start_is_as_long_as_the_last_one_was() -> None:
    grown = History(size=1).changed(Change(NOW, 2))
    loading = grown.seen(fleet(1.0, 1), current=3, now=later(60))
    ready = loading.seen(fleet(1.0, 3), current=3, now=later(200))

    assert loading.ahead_seconds == UNMEASURED_START_SECONDS
    assert (ready.ahead_seconds, ready.starts) == (200, ())


def test_a_start_that_was_called_off_measures_nothing() -> None:
    history = History(size=1).changed(Change(NOW, 2)).changed(Change(later(10), -2))

    assert history.seen(fleet(1.0, 3), current=1, now=later(900)).start_seconds is None


def test_a_queue_calls_for_as_many_as_will_work_it_off() -> None:
    made = decided(fleet(2.0, 2, backlog_seconds=600), 2, History(), 0)

    assert (made.replicas, made.reason) == (6, "RequestsWaiting")


def test_a_queue_that_loading_servers_will_have_worked_off_calls_for_no_more() -> None:
    history = History(size=2).changed(Change(NOW, 4))

    made = decided(fleet(2.0, 2, backlog_seconds=300), 6, history, 60)

    assert made.replicas == 6


def test_a_start_that_waited_hours_for_a_node_does_not_look_hours_ahead() -> None:
    assert History(start_seconds=7200.0).ahead_seconds == FURTHEST_SECONDS
