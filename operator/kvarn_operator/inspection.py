"""The inspection of a model: a short Job in the serving image that prints the model's shape."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kvarn.planner import ModelShape, ShapeError
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.api.status import InspectedModel, InspectionFailure
from kvarn_operator.config import Config
from kvarn_operator.gpus import product
from kvarn_operator.observe import INSPECTION, Failure, Manifest, Observed, Pod, digest, json_object
from kvarn_operator.overlay import merge
from kvarn_operator.planning import Unplanned
from kvarn_operator.pods import (
    container_security,
    environment,
    hub_environment,
    image,
    labels,
    metadata,
    mounts,
    node_selector,
    pod_security,
    tolerations,
    volumes,
)
from kvarn_operator.source import Source

DEADLINE_SECONDS = 600
KEEP_SECONDS = 300
"""How long a finished Job stays, to be looked at; a failed one is tried again afterwards."""
TERMINATION_LOG = "/dev/termination-log"
DOWNLOADING = frozenset(
    {"HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
)
"""What holds for the Job too of the servers' ``engine.env``."""
PLACEMENT = (
    "imagePullSecrets",
    "nodeSelector",
    "runtimeClassName",
    "serviceAccountName",
    "tolerations",
)
"""What holds for the Job too of the overlay on the servers' pods. Neither their scheduler nor their
priority does: it takes no accelerator, and displaces nobody.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is known of a model.

    Attributes:
        shape: its shape, once known.
        record: what ``.status.model`` holds of it; None where the spec itself has the shape.
        wants_job: whether a Job has to be started to learn more.
    """

    shape: ModelShape | None = None
    record: InspectedModel | None = None
    wants_job: bool = False


def find(target: KVarNDeployment, observed: Observed, config: Config) -> Finding:
    """The model's shape: from the spec, from the status, or from an inspection that has ended.

    Raises:
        ShapeError: the shape in the spec contradicts itself.
    """
    if stated := target.spec.model.shape:
        return Finding(shape=ModelShape.from_dict(stated.model_dump(by_alias=True)))
    key, reader, job = _key(target), image(target, config), job_name(target, config)
    kept = target.status.model
    known = kept if kept is not None and kept.key == key else InspectedModel(key=key)
    shape = _legible(known)
    if shape is not None and known.image == reader:
        return Finding(shape=shape, record=known.model_copy(update={"failure": None}))
    ended = _ended(observed, job)
    if isinstance(ended, InspectionFailure):
        known = known.model_copy(update={"failure": ended})
    elif ended is not None:
        record = InspectedModel(key=key, image=reader, shape=ended)
        return Finding(shape=ModelShape.from_dict(ended), record=record)
    # What is known holds until another image has read the model, and its failures take nothing.
    return Finding(shape=shape, record=known, wants_job=("Job", job) not in observed.children)


def unread(record: InspectedModel | None) -> Unplanned:
    """Why there is no plan as long as the shape is not known."""
    if record is not None and record.failure is not None:
        return Unplanned(reason=record.failure.reason, message=record.failure.message)
    return Unplanned(
        reason="Inspecting", message="A Job is reading the model's shape.", waiting=True
    )


def job_name(target: KVarNDeployment, config: Config) -> str:
    """Name of the Job that inspects exactly this model with exactly this image."""
    by = digest([_key(target), image(target, config)])
    return f"{target.metadata.name}-inspect-{by[:8]}"


def job(target: KVarNDeployment, config: Config, products: Collection[str]) -> Manifest:
    """The Job, on the nodes that the servers will be on.

    Args:
        target: the resource.
        config: the operator's settings.
        products: of the cluster's GPUs, if `gpus.needs_nodes`.

    Raises:
        planner.AcceleratorError: it is not known which nodes those are.
    """
    own = labels(target, component=INSPECTION)
    base = {"spec": _pod(target, config, product(target, products))}
    template = merge(merge(base, _overlay(target)), {"metadata": {"labels": own}})
    spec = {
        "backoffLimit": 1,
        "activeDeadlineSeconds": DEADLINE_SECONDS,
        "ttlSecondsAfterFinished": KEEP_SECONDS,
        "template": template,
    }
    head = metadata(target, name=job_name(target, config), component=INSPECTION)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": head | {"labels": template["metadata"]["labels"]},
        "spec": spec,
    }


def _overlay(target: KVarNDeployment) -> Manifest:
    """What holds for the Job too of the overlay on the servers' pods."""
    overlay = target.spec.pod_template or {}
    head, spec = overlay.get("metadata", {}), overlay.get("spec", {})
    placement = {key: spec[key] for key in PLACEMENT if key in spec}
    # It need not keep away from pods, as servers may from each other.
    if nodes := (spec.get("affinity") or {}).get("nodeAffinity"):
        placement["affinity"] = {"nodeAffinity": nodes}
    known = {key: head[key] for key in ("labels", "annotations") if key in head}
    return {"metadata": known, "spec": placement}


def _pod(target: KVarNDeployment, config: Config, gpu: str) -> Manifest:
    source = Source.parse(target.spec.model.source)
    revision = target.spec.model.revision
    hub = f"hf://{source.place}" + (f"@{revision}" if revision else "")
    env = [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the pod's own emptyDir
        {"name": "KVARN_TERMINATION_MESSAGE_PATH", "value": TERMINATION_LOG},
        *hub_environment(target, config),
    ]
    container = {
        "name": "inspect",
        "image": image(target, config),
        "imagePullPolicy": target.spec.engine.image_pull_policy,
        "command": ["python3", "-m", "kvarn.planner.inspect"],
        "args": [hub if source.kind == "hf" else source.model],
        "env": environment(target, env, only=DOWNLOADING),
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
        "securityContext": container_security(),
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts(source),
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "nodeSelector": node_selector(gpu),
        "tolerations": tolerations(target),
        "volumes": volumes(target, source),
        "containers": [container],
    }


def _key(target: KVarNDeployment) -> str:
    model = target.spec.model
    return digest([model.source, model.revision])


def _legible(known: InspectedModel) -> ModelShape | None:
    """The shape that is known; None where an older planner wrote it and this one cannot read it."""
    with suppress(ShapeError):
        return ModelShape.from_dict(known.shape) if known.shape else None
    return None


def _ended(observed: Observed, job: str) -> dict[str, Any] | InspectionFailure | None:
    """The shape that a Job has printed, or why it has none; None while it may still print one."""
    for pod in observed.inspections(job):
        if pod.output:
            return _printed(pod.output)
    if failure := _failure(observed, job):
        return InspectionFailure(reason=failure.reason, message=failure.message)
    return None


def _printed(output: str) -> dict[str, Any] | InspectionFailure:
    shape = json_object(output)
    try:
        ModelShape.from_dict(shape)
    except ShapeError as error:
        message = f"The inspection printed no shape ({error}): check that engine.image has kvarn."
        return InspectionFailure(reason="InspectionFailed", message=message[:1024])
    return shape


def _failure(observed: Observed, job: str) -> Failure | None:
    """Why the Job has failed for good; None while it may still end well."""
    body = observed.children.get(("Job", job))
    ended = body.condition("Failed") if body else {}
    if ended.get("status") != "True":
        return None
    pods = observed.inspections(job)
    said = next((pod.failure for pod in pods if pod.failure), None)
    return said or Failure(reason="InspectionFailed", message=_why(pods, ended))


def _why(pods: tuple[Pod, ...], ended: Mapping[str, str]) -> str:
    stuck = next((pod.waiting or pod.unschedulable for pod in pods), "")
    why = stuck or ended.get("message") or "its Job failed"
    return f"The model could not be inspected ({why}): correct model.source, or give model.shape."
