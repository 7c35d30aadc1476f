"""The built-in autoscaler: what it does with the same evidence under the same rules."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvarn_operator.api.autoscaling import Autoscaling
from kvarn_operator.autoscale import Change, Decision, History, decide
from kvarn_operator.pressure import Fleet, Parts, Server
from tests.operator_logic.builders import NOW, later

RULES = Autoscaling(min_replicas=1, max_replicas=10)


def server(pressure: float = 0.0, **changes: Any) -> Server:
    made = Server(
        name="a",
        parts=Parts(cache=pressure),
        load=pressure,
        capacity_tokens=1000,
        running=0,
        usage=0.0,
    )
    return replace(made, **changes)


def servers(*pressures: float, stale: Sequence[str] = ()) -> Fleet:
    return Fleet(servers=tuple(server(p) for p in pressures), stale=tuple(stale))


def rules(**changes: Any) -> Autoscaling:
    return Autoscaling.model_validate({"maxReplicas": 10, **changes})


def once(fleet: Fleet, *, current: int, rules: Autoscaling = RULES) -> Decision:
    return decide(fleet, current=current, rules=rules, history=History(), now=NOW)


def follow(fleet: Fleet, *, current: int, rules: Autoscaling, seconds: int) -> list[int]:
    """The sizes at each second while the evidence stays the same."""
    history, sizes = History(), []
    for second in range(seconds):
        made = decide(fleet, current=current, rules=rules, history=history, now=later(second))
        history = made.history
        if made.replicas != current:
            history = history.changed(Change(later(second), made.replicas - current))
        current = made.replicas
        sizes.append(current)
    return sizes


def test_demand_of_more_servers_than_there_are_makes_it_grow_at_once() -> None:
    made = once(servers(2.5), current=1)

    assert (made.replicas, made.reason, made.active) == (3, "CacheFull", True)


def test_a_little_over_the_target_is_tolerated() -> None:
    assert once(servers(1.05, 1.05), current=2).replicas == 2


def test_servers_that_are_loading_are_credited() -> None:
    """One ready server with the work of three, two more on their way."""
    assert once(servers(3.0), current=3).reason == "WithinTarget"


def test_capacity_is_counted_in_tokens() -> None:
    """A full small server and an idle large one are not two half full ones."""
    small, large = server(2.0, capacity_tokens=100), server(0.1, capacity_tokens=900)

    assert once(Fleet(servers=(small, large)), current=2).replicas == 2


def test_growth_is_limited_in_steps() -> None:
    assert once(servers(9.0), current=1).replicas == 5
    assert once(servers(*[2.0] * 4), current=4, rules=rules(maxReplicas=50)).replicas == 8


def test_the_bounds_hold() -> None:
    assert once(servers(9.0), current=2, rules=rules(maxReplicas=3)).replicas == 3
    assert once(Fleet(), current=1, rules=rules(minReplicas=4)).replicas == 4
    assert once(servers(9.0), current=3, rules=rules(maxReplicas=3)).reason == "AtMaximum"


def test_it_shrinks_only_when_its_window_has_passed_twice_and_then_step_by_step() -> None:
    down = {"stabilizationWindowSeconds": 10}
    sizes = follow(
        servers(0, 0, 0), current=3, rules=rules(behavior={"scaleDown": down}), seconds=90
    )

    assert sizes[:20] == [3] * 20
    assert sizes[20:80] == [2] * 60
    assert sizes[80:] == [1] * 10


def test_it_never_shrinks_to_where_the_rest_would_be_nearly_full() -> None:
    """Two servers at 43 % would leave one at 86 %."""
    down = {"stabilizationWindowSeconds": 0}

    assert (
        once(servers(0.43, 0.43), current=2, rules=rules(behavior={"scaleDown": down})).replicas
        == 2
    )


def test_a_server_that_goes_takes_its_part_of_the_cached_prefixes_along() -> None:
    """Without them, two servers at a load of 0.4 each could do the work of four."""
    down = rules(behavior={"scaleDown": {"stabilizationWindowSeconds": 0}})
    alone = Fleet(servers=(server(0.4),) * 4)
    sharing = Fleet(servers=(server(0.4, reused=2.0),) * 4)

    assert once(alone, current=4, rules=down).reason == "LowPressure"
    assert once(sharing, current=4, rules=down).reason == "WithinTarget"


def test_a_restart_does_not_shorten_the_window() -> None:
    assert once(servers(0.0, 0.0), current=2).replicas == 2


def test_missing_metrics_freeze_the_size() -> None:
    down = rules(behavior={"scaleDown": {"stabilizationWindowSeconds": 0}})

    silent = once(servers(stale=["a", "b"]), current=2, rules=down)
    partly = once(servers(0.0, stale=["b"]), current=2, rules=down)

    assert (silent.replicas, silent.reason, silent.active) == (2, "MetricsStale", False)
    assert (partly.replicas, partly.reason, partly.active) == (2, "MetricsStale", False)
    assert "b" in partly.message


def test_what_fresh_servers_show_may_still_make_it_grow() -> None:
    assert once(servers(3.0, stale=["b"]), current=2).replicas == 3


def test_rejections_do_not_wait_for_a_window() -> None:
    up = {"scaleUp": {"stabilizationWindowSeconds": 600}}
    pressed = server(2.0, parts=Parts(rejections=2.0))

    made = once(Fleet(servers=(pressed,)), current=1, rules=rules(behavior=up))

    assert (made.replicas, made.reason) == (2, "Rejections")


def test_a_queue_that_stands_is_not_tolerated() -> None:
    """Clients that wait for their answers never ask for much more than they get."""
    outrun = server(1.05, standing_queue=3)

    made = once(Fleet(servers=(outrun, outrun)), current=2)

    assert (made.replicas, made.reason) == (3, "QueueStanding")
    assert made.message.startswith("A queue that never empties before any server calls for")
    assert once(Fleet(servers=(outrun, server(1.05))), current=2).replicas == 2
    assert once(Fleet(servers=(outrun, outrun)), current=3).replicas == 3


@pytest.mark.parametrize("size", [1, 9, 10, 11, 20])
def test_an_alarm_asks_for_more_than_another_owner_of_the_size_takes_for_noise(size: int) -> None:
    """A HorizontalPodAutoscaler ignores a tenth."""
    outrun = Fleet(servers=(server(0.5, standing_queue=1),) * size)

    made = once(outrun, current=size, rules=rules(maxReplicas=99))

    _, wanted = made.history.wanted[-1]
    assert size + 1 <= wanted <= 1.1 * size + 1
    assert wanted / size > 1.1


def test_disabled_means_never() -> None:
    up = {"scaleUp": {"selectPolicy": "Disabled"}}

    assert once(servers(5.0), current=1, rules=rules(behavior=up)).replicas == 1


@pytest.mark.parametrize(("select", "size"), [("Max", 8), ("Min", 5)])
def test_the_widest_or_the_narrowest_policy_counts(select: str, size: int) -> None:
    policies = [
        {"type": "Percent", "value": 100, "periodSeconds": 60},
        {"type": "Pods", "value": 1, "periodSeconds": 60},
    ]
    up = {"scaleUp": {"selectPolicy": select, "policies": policies}}

    assert once(servers(*[5.0] * 4), current=4, rules=rules(behavior=up)).replicas == size


def test_steps_of_the_period_are_counted_together() -> None:
    policies = [{"type": "Pods", "value": 2, "periodSeconds": 30}]
    up = rules(behavior={"scaleUp": {"policies": policies}})

    assert follow(servers(9.0), current=1, rules=up, seconds=31)[::10] == [3, 3, 3, 5]


@given(
    pressures=st.lists(st.floats(0, 50), max_size=8),
    stale=st.integers(0, 3),
    current=st.integers(1, 12),
)
def test_whatever_is_said_the_size_stays_in_its_bounds_and_never_shrinks_on_silence(
    pressures: list[float], stale: int, current: int
) -> None:
    made = once(servers(*pressures, stale=["x"] * stale), current=current)

    assert 1 <= made.replicas <= 10
    assert not (stale and made.replicas < min(current, 10))
