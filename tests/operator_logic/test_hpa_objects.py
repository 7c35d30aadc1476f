"""The objects that hand the size over, and what outside autoscalers are told."""

from datetime import timedelta
from typing import Any

import pytest

from kvarn_operator import autoscale
from kvarn_operator.actuate import followed, told
from kvarn_operator.api.autoscaling import Autoscaling
from kvarn_operator.autoscale import Decision, History
from kvarn_operator.autoscalers import autoscaler, shrinks
from kvarn_operator.pressure import Fleet, Parts, Server
from tests.operator_logic.builders import NOW, later, target

PROMETHEUS = "http://prometheus.monitoring.svc:9090"
BOUNDS = {"minReplicas": 2, "maxReplicas": 9}


def rendered(**autoscaling: Any) -> dict[str, Any]:
    found = autoscaler(target(autoscaling=BOUNDS | autoscaling))
    assert found is not None
    return found


def server(pressure: float, *, name: str = "demo-1") -> Server:
    return Server(
        name=name,
        parts=Parts(cache=pressure),
        load=pressure,
        capacity_tokens=1000,
        running=1,
        usage=0.5,
    )


def decided(*pressures: float, stale: tuple[str, ...] = (), current: int = 3) -> Decision:
    servers = tuple(server(each, name=f"demo-{n}") for n, each in enumerate(pressures))
    return autoscale.decide(
        Fleet(servers=servers, stale=stale),
        current=current,
        rules=Autoscaling.model_validate(BOUNDS),
        history=History(),
        now=NOW,
    )


@pytest.mark.parametrize("mode", ["builtin", "none"])
def test_the_operator_hands_over_only_where_it_is_told_to(mode: str) -> None:
    assert autoscaler(target(autoscaling=BOUNDS | {"mode": mode})) is None
    assert autoscaler(target()) is None


def test_the_autoscaler_aims_at_one_replica_for_each_that_is_called_for() -> None:
    spec = rendered(mode="hpa")["spec"]

    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 9)
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "demo"}
    (metric,) = spec["metrics"]
    assert metric["external"]["metric"]["name"] == "kvarn_demand_replicas"
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}


def test_windows_and_steps_are_the_resources_own() -> None:
    policies = [{"type": "Pods", "value": 2, "periodSeconds": 60}]
    down = {"stabilizationWindowSeconds": 77, "selectPolicy": "Min", "policies": policies}

    behavior = rendered(mode="hpa", behavior={"scaleDown": down})["spec"]["behavior"]

    assert behavior["scaleDown"] == down
    assert behavior["scaleUp"]["selectPolicy"] == "Max"


def test_to_keda_no_data_is_an_outage_and_an_outage_holds_the_size() -> None:
    spec = rendered(mode="keda", prometheusAddress=PROMETHEUS)["spec"]

    (trigger,) = spec["triggers"]
    assert trigger["metadata"]["ignoreNullValues"] == "false"
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["fallback"]["replicas"] == spec["minReplicaCount"] == 2


def test_the_query_stands_prometheus_renaming_of_the_namespace() -> None:
    spec = rendered(mode="keda", prometheusAddress=PROMETHEUS)["spec"]

    query = spec["triggers"][0]["metadata"]["query"]

    assert 'kvarn_demand_replicas{namespace="default",name="demo"}' in query
    assert 'kvarn_demand_replicas{exported_namespace="default",name="demo"}' in query


def test_what_is_told_is_what_the_demand_calls_for_beyond_all_windows() -> None:
    assert told(decided(2.0, 2.0, 2.0), current=3) == 6
    assert told(decided(0.1, 0.1, 0.1), current=3) == 1
    assert told(decided(0.8, 0.8, 0.8), current=3) == 3


def test_silence_may_raise_what_is_told_and_never_lower_it() -> None:
    assert told(decided(0.0, stale=("demo-2",)), current=3) is None
    assert told(decided(5.0, stale=("demo-2",)), current=3) == 5
    assert told(decided(), current=3) is None


def test_changes_of_another_owner_are_followed_without_windows_of_our_own() -> None:
    """A start that it asked for is known, so that its duration is measured."""
    before = History(size=1)

    after = followed(before, current=3, now=later(5))

    assert [start.size for start in after.starts] == [3]
    assert (after.size, after.grown, after.shrunk) == (3, None, None)
    assert followed(after, current=3, now=NOW + timedelta(hours=1)) == after


@pytest.mark.parametrize(
    ("told", "current", "expected"),
    [
        pytest.param(2, 4, True, id="smaller"),
        pytest.param(1, 2, False, id="as small as may be"),
        pytest.param(18, 20, False, id="noise"),
        pytest.param(4, 4, False, id="as it is"),
        pytest.param(None, 4, False, id="not known"),
    ],
)
def test_an_owner_of_the_size_shrinks_by_more_than_a_tenth_and_within_its_bounds(
    told: int | None, current: int, expected: bool
) -> None:
    of = target(autoscaling=BOUNDS | {"mode": "hpa"})

    assert shrinks(of, told=told, current=current) == expected
