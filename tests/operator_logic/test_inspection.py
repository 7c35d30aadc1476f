"""What is known of a model, and when a Job has to find out."""

import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest

from kvarn.planner import AcceleratorError, ModelShape, ShapeError
from kvarn_operator import inspection, pods
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.config import Config
from kvarn_operator.inspection import Finding
from kvarn_operator.observe import INSPECTION, Child, Failure, Observed, Pod
from tests.operator_logic.builders import CONFIG, SHAPE, target

UNREAD = target(model={"source": "pvc://demo-model/demo"})
NEWER = replace(CONFIG, serving_cpu_image="serving-cpu:2")


def find(
    of: KVarNDeployment = UNREAD,
    *,
    job: dict[str, Any] | None = None,
    config: Config = CONFIG,
    **pod: Any,
) -> Finding:
    """What is found where there is this Job, with this pod."""
    name = inspection.job_name(UNREAD, config)
    started = Child.read({"metadata": {"name": name}} | (job or {}), kind="Job")
    pods = [Pod(name="x", component=INSPECTION, job=name, **pod)] if pod else []
    return inspection.find(of, Observed.of([started] if job is not None else [], pods), config)


def kept(finding: Finding) -> KVarNDeployment:
    """The resource after `finding` was written into its status."""
    status = UNREAD.status.model_copy(update={"model": finding.record})
    return UNREAD.model_copy(update={"status": status})


def test_a_stated_shape_needs_no_job() -> None:
    found = find(target())

    assert found == Finding(shape=ModelShape.from_dict(SHAPE))


def test_a_stated_shape_that_contradicts_itself_is_refused() -> None:
    shape = SHAPE | {"attentionHeads": 3}

    with pytest.raises(ShapeError, match="no multiple of kvHeads"):
        find(target(model={"source": "pvc://a/b", "shape": shape}))


def test_an_unknown_model_wants_a_job_once() -> None:
    assert find().wants_job
    assert not find(job={}).wants_job


def test_what_the_job_printed_is_the_shape_and_is_kept() -> None:
    found = find(job={}, output=json.dumps(SHAPE))

    assert found.shape == ModelShape.from_dict(SHAPE)
    assert find(kept(found)).shape == found.shape
    assert not find(kept(found)).wants_job


FAILED = {"status": {"conditions": [{"type": "Failed", "status": "True", "message": "Deadline"}]}}


@pytest.mark.parametrize("change", [{"source": "pvc://demo-model/other"}, {"revision": "v2"}])
def test_another_source_or_revision_is_another_model(change: dict[str, str]) -> None:
    of = kept(find(job={}, output=json.dumps(SHAPE)))
    model = of.spec.model.model_copy(update=change)

    found = find(of.model_copy(update={"spec": of.spec.model_copy(update={"model": model})}))

    assert found.shape is None
    assert found.wants_job


def test_another_image_reads_the_model_again_while_the_known_shape_is_planned_by() -> None:
    of = kept(find(job={}, output=json.dumps(SHAPE)))

    found = find(of, config=NEWER)

    assert found.wants_job
    assert found.shape == ModelShape.from_dict(SHAPE)
    assert found.record == of.status.model
    assert inspection.job_name(UNREAD, NEWER) != inspection.job_name(UNREAD, CONFIG)


def test_what_another_image_read_takes_the_place_of_the_known_shape() -> None:
    of = kept(find(job={}, output=json.dumps(SHAPE)))
    another = SHAPE | {"layers": 3}

    found = find(of, job={}, config=NEWER, output=json.dumps(another))

    assert found.shape == ModelShape.from_dict(another)
    assert not find(kept(found), config=NEWER).wants_job


@pytest.mark.parametrize(
    "pod",
    [{"failure": Failure(reason="Unsupported", message="Unknown architecture.")}, {"output": "{}"}],
    ids=["failed", "no_shape"],
)
def test_an_image_that_cannot_read_the_model_takes_no_shape_away(pod: dict[str, Any]) -> None:
    of = kept(find(job={}, output=json.dumps(SHAPE)))

    found = find(of, job=FAILED, config=NEWER, **pod)

    assert found.shape == ModelShape.from_dict(SHAPE)
    assert found.record is not None
    assert found.record.failure is not None
    assert find(kept(found), config=NEWER).record == found.record
    assert find(kept(found)).shape == found.shape


def test_the_jobs_last_words_are_the_failure() -> None:
    failure = Failure(reason="ConfigMissing", message="No config.json.")

    record = find(job=FAILED, failure=failure).record

    assert record is not None
    assert record.failure is not None
    assert record.failure.message == "No config.json."


def test_a_job_that_may_be_tried_again_has_not_failed() -> None:
    record = find(job={}, failure=Failure(reason="Error", message="?")).record

    assert record is not None
    assert record.failure is None


@pytest.mark.parametrize("output", ["", "[]", "{}", "Traceback"])
def test_an_image_without_the_planner_is_said(output: str) -> None:
    record = find(job=FAILED, output=output or " ").record

    assert record is not None
    assert record.failure is not None
    assert record.failure.reason == "InspectionFailed"


def test_a_job_that_never_ran_says_what_held_it() -> None:
    record = find(job=FAILED, waiting="ImagePullBackOff").record

    assert record is not None
    assert record.failure is not None
    assert "ImagePullBackOff" in record.failure.message


def test_a_failure_stands_until_the_next_try_has_ended() -> None:
    failed = find(job=FAILED, failure=Failure(reason="ConfigMissing", message="No config.json."))

    again = find(kept(failed))

    assert again.wants_job
    assert again.record == failed.record


def test_a_hub_model_is_named_with_its_revision() -> None:
    model = {"source": "hf://org/name", "revision": "v2", "tokenSecret": {"name": "hub"}}

    (container,) = job_of(target(model=model))["spec"]["template"]["spec"]["containers"]

    assert container["args"] == ["hf://org/name@v2"]
    assert "HF_TOKEN" in {variable["name"] for variable in container["env"]}


def test_the_job_downloads_as_the_servers_will_and_has_no_other_variable_of_theirs() -> None:
    secret = {"secretKeyRef": {"name": "hub", "key": "token"}}
    env = [
        {"name": "https_proxy", "value": "http://proxy:3128"},
        {"name": "HF_TOKEN", "valueFrom": secret},
        {"name": "HF_HOME", "value": "/on/a/volume"},
        {"name": "HOME", "value": "/on/a/volume"},
    ]
    model = {"source": "hf://org/name", "tokenSecret": {"name": "other"}}

    made = job_of(target(model=model, engine={"env": env}))

    (container,) = made["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert [variables[v["name"]] for v in env[:2]] == env[:2]
    assert variables["HF_HOME"]["value"] == "/cache"
    assert variables["HOME"]["value"] == "/tmp"


def job_of(of: KVarNDeployment, *, products: Collection[str] = ()) -> dict[str, Any]:
    """The Job, where the cluster has these GPU products."""
    return inspection.job(of, CONFIG, products)


def pod_of(overlay: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """The Job's pod template of a resource with this overlay."""
    made: dict[str, Any] = job_of(target(podTemplate=overlay, **spec))["spec"]["template"]
    return made


ON_NODES = {"model": {"source": "host:///models/qwen"}, "accelerator": {}}
H100, H200 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-H200"


def test_the_job_goes_where_the_servers_will() -> None:
    """The folder of a node need not be on any other."""
    made = job_of(target(**ON_NODES), products={H100})

    assert made["spec"]["template"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": H100}


def test_where_the_servers_will_go_is_asked_before_the_job_goes_anywhere() -> None:
    with pytest.raises(AcceleratorError, match=r"give accelerator\.product"):
        job_of(target(**ON_NODES), products={H100, H200})


def test_placement_of_the_overlay_holds_for_the_job_as_for_the_servers() -> None:
    on_gpu = {"accelerator": {"product": H100}}
    overlay = {"nodeSelector": {"disk": "fast"}, "runtimeClassName": "kata"}

    spec = pod_of({"spec": overlay | {"priorityClassName": "high"}}, **on_gpu)["spec"]

    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": H100, "disk": "fast"}
    assert spec["runtimeClassName"] == "kata"
    assert "priorityClassName" not in spec


def test_the_job_is_on_the_servers_nodes_and_not_kept_apart_from_them() -> None:
    nodes, apart = {"nodeAffinity": {"x": 1}}, {"podAntiAffinity": {"y": 2}}

    assert pod_of({"spec": {"affinity": nodes | apart}})["spec"]["affinity"] == nodes
    assert "affinity" not in pod_of({"spec": {"affinity": apart}})["spec"]
    assert "affinity" not in pod_of({"spec": {"affinity": None}})["spec"]


def test_policies_and_queues_know_the_job_by_the_overlays_labels_and_annotations() -> None:
    labels = {"kueue.x-k8s.io/queue-name": "q", "app.kubernetes.io/component": "stolen"}
    annotations = {"sidecar.istio.io/inject": "false"}
    of = target(podTemplate={"metadata": {"labels": labels, "annotations": annotations}})

    made = job_of(of)

    ours = pods.labels(of, component=INSPECTION)
    for metadata in (made["metadata"], made["spec"]["template"]["metadata"]):
        assert metadata["labels"] == {"kueue.x-k8s.io/queue-name": "q"} | ours
    assert made["spec"]["template"]["metadata"]["annotations"] == annotations
    assert made["metadata"]["ownerReferences"]
