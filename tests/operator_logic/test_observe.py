"""What is read of a pod."""

import json
from dataclasses import replace
from typing import Any

import pytest

from kvarn_operator.observe import Observed, Pod, essence
from tests.operator_logic.builders import pod


def ended(message: str = "", *, code: int = 1, reason: str = "Error") -> list[dict[str, Any]]:
    terminated = {"exitCode": code, "reason": reason, "message": message}
    return [
        {
            "name": "server",
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "restartCount": 2,
            "lastState": {"terminated": terminated},
        }
    ]


def test_the_launchers_words_say_why_a_start_failed() -> None:
    words = {"reason": "InsufficientMemory", "message": "No room.", "numbers": {"needBytes": 7}}

    read = Pod.read(pod(ready=False, containerStatuses=ended(json.dumps(words))))

    assert read.failure is not None
    assert (read.failure.reason, read.failure.message) == ("InsufficientMemory", "No room.")
    assert read.failure.numbers == {"needBytes": 7}
    assert read.restarts == 2


def test_the_kubelets_word_stands_where_the_launcher_left_none() -> None:
    statuses = ended("Killed", code=137, reason="OOMKilled")

    read = Pod.read(pod(ready=False, containerStatuses=statuses))

    assert read.failure is not None
    assert read.failure.reason == "OOMKilled"
    assert "137" in read.failure.message


def test_a_pod_that_is_ready_again_has_no_failure() -> None:
    assert Pod.read(pod(ready=True, containerStatuses=ended())).failure is None


def test_a_container_that_ended_well_leaves_its_output() -> None:
    statuses = [{"name": "server", "state": {"terminated": {"exitCode": 0, "message": "{}"}}}]

    assert Pod.read(pod(ready=False, containerStatuses=statuses)).output == "{}"


@pytest.mark.parametrize(
    ("component", "container"), [("server", "server"), ("inspection", "inspect")]
)
def test_a_sidecar_does_not_speak_for_the_container_that_counts(
    component: str, container: str
) -> None:
    """The kubelet sorts them by name."""
    sidecar = {"name": "agent", "state": {"waiting": {"reason": "ImagePullBackOff"}}}
    body = pod(ready=False, containerStatuses=[sidecar, ended()[0] | {"name": container}])
    body["metadata"]["labels"]["app.kubernetes.io/component"] = component

    read = Pod.read(body)

    assert (read.waiting, read.restarts) == ("CrashLoopBackOff", 2)
    assert read.failure is not None


def test_of_a_pod_with_nothing_but_sidecars_no_container_is_read() -> None:
    sidecar = {"name": "agent", "restartCount": 3, "state": {"running": {}}}

    assert Pod.read(pod(ready=False, containerStatuses=[sidecar])).restarts == 0


def test_a_pod_without_a_status_is_read_too() -> None:
    bare = {"metadata": {"name": "new"}}

    assert Pod.read(bare) == Pod(name="new", component="")


WAITS = {"waiting": {"reason": "ContainerCreating"}}
STUCK = {"waiting": {"reason": "ImagePullBackOff"}}
NO_NODE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"}


@pytest.mark.parametrize(
    ("state", "loading"),
    [
        pytest.param({"ready": True}, False, id="ready"),
        pytest.param(
            {"containerStatuses": [{"name": "server", "state": WAITS}]}, True, id="being created"
        ),
        pytest.param(
            {"containerStatuses": [{"name": "server", "state": {"running": {}}}]},
            True,
            id="loading",
        ),
        pytest.param(
            {"containerStatuses": [{"name": "server", "state": STUCK}]}, False, id="stuck"
        ),
        pytest.param({"containerStatuses": ended()}, False, id="failing"),
        pytest.param({"conditions": [NO_NODE]}, False, id="on no node"),
    ],
)
def test_a_server_is_loading_while_it_may_yet_become_ready(
    state: dict[str, Any], loading: bool
) -> None:
    assert Pod.read(pod(**({"ready": False} | state))).is_loading == loading


def test_a_server_that_goes_is_draining_and_not_loading() -> None:
    going = pod(ready=False)
    going["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    seen = Observed.of((), (Pod.read(going), Pod.read(pod("demo-2"))))

    assert [each.name for each in seen.draining] == ["demo-1"]
    assert [each.name for each in seen.servers] == ["demo-2"]
    assert not seen.draining[0].is_loading


def test_replicas_and_status_are_not_part_of_a_childs_essence() -> None:
    child = {"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 1, "x": 1}}
    scaled = {
        "metadata": {"labels": {"a": "1"}, "resourceVersion": "9"},
        "spec": {"replicas": 9, "x": 1},
        "status": {"replicas": 9},
    }

    assert essence(child) == essence(scaled)
    assert essence(child) != essence({**child, "spec": {"x": 2}})


@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_what_was_evicted_is_no_server_any_more(phase: str) -> None:
    """Kubelets leave such pods where they are, and nobody collects them."""
    read = Pod.read(pod(ready=False) | {"status": {"phase": phase, "reason": "Evicted"}})

    observed = Observed.of([], [read, replace(read, name="going", deleting=True)])

    assert (observed.servers, observed.draining) == ((), ())


def test_an_init_container_that_fails_keeps_a_server_from_loading() -> None:
    fetch = {"name": "fetch", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    server = {"name": "server", "state": {"waiting": {"reason": "PodInitializing"}}}

    read = Pod.read(pod(ready=False, initContainerStatuses=[fetch], containerStatuses=[server]))

    assert (read.waiting, read.is_loading) == ("CrashLoopBackOff", False)


@pytest.mark.parametrize(
    ("arguments", "most"),
    [
        (["--model", "m", "--max-num-seqs", "16", "--port", "1"], 16),
        (["--max-num-seqs"], 0),
        (["--max-num-seqs", "many"], 0),
        ([], 0),
    ],
)
def test_a_pod_says_how_many_sequences_it_was_started_for(arguments: list[str], most: int) -> None:
    agent = {"name": "agent", "args": ["--max-num-seqs", "3"]}
    containers = [agent, {"name": "server", "args": arguments}]

    assert Pod.read(pod(ready=True) | {"spec": {"containers": containers}}).max_sequences == most
