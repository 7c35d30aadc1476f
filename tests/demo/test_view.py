"""What is read from Kubernetes' objects."""

from typing import Any

import pytest

from demo import view


def pod(*, ready: bool = False, **changes: Any) -> dict[str, Any]:
    condition = {"type": "Ready", "status": str(ready)}
    status = {"phase": "Running", "conditions": [condition], **changes.pop("status", {})}
    return {"metadata": {"name": "demo-1", **changes}, "status": status}


WAITING = {"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}
PODS = [
    pytest.param(pod(), "Running", id="not ready"),
    pytest.param(pod(ready=True), "Ready", id="ready"),
    pytest.param(pod(ready=True, deletionTimestamp="now"), "Draining", id="draining"),
    pytest.param(pod(status=WAITING), "ImagePullBackOff", id="why it waits"),
    pytest.param({"metadata": {"name": "demo-1"}}, "Pending", id="no status"),
]


@pytest.mark.parametrize(("found", "word"), PODS)
def test_a_pod_in_one_word(found: dict[str, Any], word: str):
    assert view.pod_state(found) == word


def deployment(*, ready: int, total: int, observed: int = 2) -> dict[str, Any]:
    counts = {"updatedReplicas": ready, "readyReplicas": ready, "replicas": total}
    return {
        "metadata": {"generation": 2},
        "spec": {"replicas": 1},
        "status": {"observedGeneration": observed, **counts},
    }


def test_a_roll_out_is_over_when_no_other_pods_are_left():
    assert view.rolled_out(deployment(ready=1, total=1))
    assert not view.rolled_out(deployment(ready=1, total=2))
    assert not view.rolled_out(deployment(ready=1, total=1, observed=1))
    assert not view.rolled_out(None)


def test_a_condition_of_an_older_spec_does_not_count():
    condition = {"type": "Ready", "status": "True", "observedGeneration": 1}
    resource = {"metadata": {"generation": 1}, "status": {"conditions": [condition]}}
    assert view.is_true(resource, "Ready")
    resource["metadata"]["generation"] = 2
    assert not view.is_true(resource, "Ready")


def test_a_metric_is_summed_over_its_labels():
    text = 'done_total{why="stop"} 2.0\ndone_total{why="length"} 3.0\nother 7.0\n'
    assert view.metric(text, "done_total") == 5
    assert view.metric(text, "missing") == 0
