"""The conditions, and what they say to those who wait for them."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from kvarn_operator import conditions, status
from kvarn_operator.api.status import Condition, Status
from kvarn_operator.autoscale import Decision, History
from kvarn_operator.conditions import Verdict
from kvarn_operator.observe import TEMPLATE_HASH, Child, Failure, Observed, Pod
from kvarn_operator.planning import Unplanned
from kvarn_operator.pressure import Fleet, Parts, Server
from kvarn_operator.scene import Scene
from tests.operator_logic.builders import NOW, later, planned, target

MISFIT = Unplanned(reason="InsufficientMemory", message="9 GiB of 8 GiB: use a larger GPU.")
INSPECTING = Unplanned(reason="Inspecting", message="A Job reads it.", waiting=True)


def deployment(*, ready: int, replicas: int = 1, updated: int = 1, reason: str = "") -> Child:
    progress = {"type": "Progressing", "reason": reason or "NewReplicaSetAvailable", "message": "?"}
    body = {
        "metadata": {"name": "demo", "generation": 1},
        "spec": {
            "replicas": replicas,
            "template": {"metadata": {"annotations": {TEMPLATE_HASH: "new"}}},
        },
        "status": {
            "observedGeneration": 1,
            "replicas": replicas,
            "updatedReplicas": updated,
            "readyReplicas": ready,
            "conditions": [progress],
        },
    }
    return Child.read(body, kind="Deployment")


def scene(*objects: Child, pods: tuple[Pod, ...] = (), **changes: Any) -> Scene:
    made = Scene(target=target(), outcome=planned(target()), observed=Observed.of(objects, pods))
    return replace(made, **changes)


def said(of: Scene) -> dict[str, tuple[str, str]]:
    return {kind: (v.status, v.reason) for kind, v in conditions.verdicts(of)}


def test_nothing_yet() -> None:
    found = said(scene())

    assert found["Ready"] == ("False", "Starting")
    assert found["Progressing"][0] == "True"
    assert "Stalled" not in found


def test_rolled_out_and_serving() -> None:
    found = said(scene(deployment(ready=1)))

    assert found["Ready"] == ("True", "Serving")
    assert found["Progressing"] == ("False", "Settled")
    assert found["Degraded"] == ("False", "NoFailures")


def test_a_size_of_zero_is_as_it_should_be() -> None:
    """Else whoever waits for health, as Flux does, would wait for ever."""
    assert said(scene(deployment(ready=0, replicas=0, updated=0)))["Ready"] == (
        "True",
        "ScaledToZero",
    )


def test_a_roll_out_neither_serves_the_present_spec_nor_is_down() -> None:
    found = said(scene(deployment(ready=1, replicas=2, updated=1)))

    assert found["Ready"] == ("Unknown", "RollingOut")
    assert found["Progressing"] == ("True", "RollingOut")


def test_growing_does_not_make_it_unready() -> None:
    found = said(scene(deployment(ready=1, replicas=2, updated=2)))

    assert found["Ready"] == ("True", "Serving")
    assert found["Progressing"] == ("True", "Scaling")


def test_what_a_person_has_to_mend_is_stalled_and_not_in_progress() -> None:
    found = said(scene(deployment(ready=1), outcome=MISFIT))

    assert found["Stalled"] == ("True", "InsufficientMemory")
    assert found["Ready"] == found["Planned"] == ("False", "InsufficientMemory")
    assert found["MemoryFits"] == ("False", "InsufficientMemory")
    assert found["Progressing"][0] == "False"


def test_an_inspection_passes_by_itself() -> None:
    assert said(scene(outcome=INSPECTING))["Ready"] == ("False", "Inspecting")
    found = said(scene(deployment(ready=1), outcome=INSPECTING))
    assert found["Ready"] == ("Unknown", "Inspecting")
    assert "Stalled" not in found


def test_a_roll_out_that_gave_up_is_stalled_in_the_servers_words() -> None:
    failed = Pod(
        name="demo-1", template_hash="new", failure=Failure(reason="OutOfMemory", message="No.")
    )
    given_up = deployment(ready=0, reason="ProgressDeadlineExceeded")

    found = dict(conditions.verdicts(scene(given_up, pods=(failed,))))

    assert found["Stalled"] == Verdict("True", "RolloutFailed", "demo-1: No.")
    assert found["MemoryFits"].status == "False"


@pytest.mark.parametrize(
    ("pod", "reason"),
    [
        pytest.param({"unschedulable": "0/3 nodes."}, "Unschedulable", id="waits for a node"),
        pytest.param({"waiting": "ContainerCreating"}, "RollingOut", id="pulls its image"),
    ],
)
def test_a_deadline_does_not_stop_a_server_that_may_yet_start(
    pod: dict[str, Any], reason: str
) -> None:
    """The Deployment counts the wait for a node and for the image as if nothing moved."""
    late = deployment(ready=0, reason="ProgressDeadlineExceeded")
    coming = Pod(name="demo-1", template_hash="new", **pod)

    found = said(scene(late, pods=(coming,)))

    assert "Stalled" not in found
    assert found["Ready"] == ("False", "Starting")
    assert found["Progressing"] == ("True", reason)


def test_servers_of_the_last_template_are_no_hope_for_the_present_one() -> None:
    late = deployment(ready=0, reason="ProgressDeadlineExceeded")

    found = said(scene(late, pods=(Pod(name="demo-0", template_hash="old"),)))

    assert found["Stalled"] == ("True", "RolloutFailed")


def test_failures_of_the_last_template_do_not_blame_the_present_one() -> None:
    old = Pod(
        name="demo-0", template_hash="old", failure=Failure(reason="OutOfMemory", message="No.")
    )

    found = said(scene(deployment(ready=1), pods=(old,)))

    assert (found["Degraded"][0], found["MemoryFits"][0]) == ("False", "True")


def test_a_pod_that_no_node_takes_says_so() -> None:
    waiting = Pod(name="demo-1", unschedulable="0/3 nodes: insufficient nvidia.com/gpu.")
    starting = deployment(ready=0, reason="ReplicaSetUpdated")

    found = dict(conditions.verdicts(scene(starting, pods=(waiting,))))

    assert found["Progressing"].reason == "Unschedulable"
    assert "nvidia.com/gpu" in found["Progressing"].message


@pytest.mark.parametrize("active", [True, False])
def test_the_autoscalers_words_are_its_condition(active: bool) -> None:
    made = Decision(replicas=1, reason="R", message="m", active=active, history=History())

    found = dict(conditions.verdicts(scene(decision=made)))

    assert found["ScalingActive"] == Verdict("True" if active else "False", "R", "m")


def merged(old: list[Condition], verdict: Verdict, *, seconds: float = 60) -> Condition:
    (made,) = conditions.merge(old, [("Ready", verdict)], generation=2, now=later(seconds))
    return made


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = merged([], Verdict("False", "Starting", "a"), seconds=0)

    again = merged([first], Verdict("False", "Stalled", "b"))
    changed = merged([again], Verdict("True", "Serving", "c"))

    assert first.last_transition_time == again.last_transition_time == "2026-11-24T12:00:00Z"
    assert changed.last_transition_time == "2026-11-24T12:01:00Z"
    assert changed.observed_generation == 2


def invalid(**spec: Any) -> dict[str, Verdict]:
    with pytest.raises(ValidationError) as refusal:
        target(**spec)
    return dict(conditions.invalid(refusal.value))


def test_a_spec_that_cannot_be_read_is_said_by_the_field() -> None:
    found = invalid(drainSeconds="soon", podTemplate={"spec": {"volumes": [{}]}})

    assert {found[kind].status for kind in ("Ready", "Planned", "Progressing")} == {"False"}
    assert {verdict.reason for verdict in found.values()} == {"InvalidSpec"}
    assert found["Planned"].message.startswith("Correct spec.drainSeconds: ")
    assert "spec.podTemplate.spec.volumes.0.name: " in found["Planned"].message


def test_what_a_pass_that_broke_off_did_not_find_stands() -> None:
    before = status.build(scene(deployment(ready=1)), fleet=Fleet(), readings={}, now=later(0))

    after = status.amended(
        before, conditions.broken_off(KeyError("x")), generation=2, now=later(60)
    )

    found = {each.type: (each.status, each.reason) for each in after.conditions}
    assert found["Ready"] == ("Unknown", "PassFailed")
    assert found["Degraded"] == ("True", "PassFailed")
    assert found["Planned"] == ("True", "Planned")
    assert (after.plan, after.observed_generation) == (before.plan, 2)


def test_a_mended_spec_is_not_stalled_by_what_it_said_before() -> None:
    stalled = status.amended(
        Status(), invalid(drainSeconds="soon").items(), generation=1, now=later(0)
    )

    after = status.amended(stalled, conditions.broken_off(KeyError("x")), generation=2, now=NOW)

    assert "Stalled" not in {each.type for each in after.conditions}


def test_messages_are_bounded() -> None:
    assert len(merged([], Verdict("False", "R", "x" * 9999)).message) == conditions.LONGEST_MESSAGE


def test_an_equal_world_gives_equal_bytes_at_any_time() -> None:
    def dumped(of: Scene, seconds: float) -> dict[str, Any]:
        built = status.build(of, fleet=status.Fleet(), readings={}, now=later(seconds))
        return status.dump(built)

    first = dumped(scene(deployment(ready=1)), 0)
    known = target().model_copy(update={"status": Status.model_validate(first)})

    assert dumped(scene(deployment(ready=1), target=known), 999) == first


def test_of_parts_too_small_to_show_none_moves_the_status() -> None:
    first, second = (
        Fleet(
            servers=(Server(name="a", parts=parts, load=0, capacity_tokens=1, running=0, usage=0),)
        )
        for parts in (Parts(compute=0.01), Parts(waiting=0.02))
    )

    assert status.pressure(first) == status.pressure(second)
