"""What the condition says where another controller owns the size."""

from dataclasses import replace
from typing import Any

import pytest

from kvarn_operator import conditions
from kvarn_operator.autoscale import Decision, History
from kvarn_operator.conditions import Verdict
from kvarn_operator.observe import Child, Observed
from kvarn_operator.scene import Scene
from tests.operator_logic.builders import planned, target

HPA = target(autoscaling={"mode": "hpa", "maxReplicas": 3})
KEDA = target(
    autoscaling={"mode": "keda", "maxReplicas": 3, "prometheusAddress": "http://prometheus:9090"}
)
GROWING = Decision(
    replicas=3, reason="CacheFull", message="From 1 to 3.", active=True, history=History()
)
SILENT = Decision(
    replicas=1, reason="MetricsStale", message="It is silent.", active=False, history=History()
)


def scaling(owner_says: dict[str, str] | None = None, **changes: Any) -> Verdict:
    """The condition, with what the autoscaler says of itself."""
    body = {
        "metadata": {"name": "demo"},
        "status": {"conditions": [{"type": "ScalingActive"} | (owner_says or {"status": "True"})]},
    }
    owner = Child.read(body, kind="HorizontalPodAutoscaler")
    observed = Observed.of([owner], ())
    scene = Scene(target=HPA, outcome=planned(HPA), observed=observed, desired=1, **changes)
    return dict(conditions.verdicts(scene))["ScalingActive"]


def scaling_by_keda(*says: dict[str, str]) -> Verdict:
    """The condition while KEDA is told a size of 3, with what it says of itself."""
    body = {"metadata": {"name": "demo"}, "status": {"conditions": list(says)}}
    observed = Observed.of([Child.read(body, kind="ScaledObject")], ())
    scene = Scene(target=KEDA, outcome=planned(KEDA), observed=observed, desired=1)
    scene = replace(scene, decision=GROWING, told=3)
    return dict(conditions.verdicts(scene))["ScalingActive"]


def test_it_says_what_the_owner_is_told() -> None:
    found = scaling(decision=GROWING, told=3)

    assert (found.status, found.reason) == ("True", "CacheFull")
    assert found.message == "The HorizontalPodAutoscaler is told a size of 3."


def test_once_the_owner_has_followed_the_policys_words_stand() -> None:
    assert scaling(decision=GROWING, told=1).message == "From 1 to 3."


def test_a_number_that_is_refused_is_no_active_scaling() -> None:
    assert scaling(decision=SILENT) == Verdict("False", "MetricsStale", "It is silent.")


def test_the_owners_own_trouble_is_shown() -> None:
    trouble = {"status": "False", "reason": "FailedGetScale", "message": "no such Deployment"}

    found = scaling(trouble, decision=GROWING, told=3)

    assert (found.status, found.reason) == ("False", "FailedGetScale")
    assert found.message == "HorizontalPodAutoscaler: no such Deployment"


@pytest.mark.parametrize(
    ("condition", "status"),
    [("Ready", "False"), ("Paused", "True"), ("Fallback", "True"), ("HPAActive", "False")],
)
def test_what_keeps_keda_from_acting_is_shown(condition: str, status: str) -> None:
    """It has no condition that is called ``ScalingActive``."""
    healthy = [{"type": "Active", "status": "True"}, {"type": "Fallback", "status": "False"}]
    trouble = {"type": condition, "status": status, "reason": "Why", "message": "It cannot."}
    others = [each for each in healthy if each["type"] != condition]

    assert scaling_by_keda(*healthy).message == "The ScaledObject is told a size of 3."
    assert scaling_by_keda(*others, trouble) == Verdict("False", "Why", "ScaledObject: It cannot.")


@pytest.mark.parametrize("decision", [GROWING, SILENT, None])
def test_without_an_owner_it_says_what_to_do(decision: Decision | None) -> None:
    assert scaling(decision=decision, unowned="Install it.") == Verdict(
        "False", "NoOwner", "Install it."
    )
