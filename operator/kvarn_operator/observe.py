"""What is seen of a resource's children, cut down to what decisions need."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from kvarn_operator import GROUP

COMPONENT_LABEL = "app.kubernetes.io/component"
SERVER = "server"
INSPECTION = "inspection"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
TEMPLATE_HASH = f"{GROUP}/template-hash"

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""


def digest(value: object) -> str:
    """Sixteen hex digits that are equal for equal JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a container ended, in the launcher's words where it left some.

    Attributes:
        reason: the launcher's (``InsufficientMemory`` …), else the kubelet's (``OOMKilled`` …).
        message: one sentence.
        numbers: what the launcher measured.
    """

    reason: str
    message: str
    numbers: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, terminated: Mapping[str, Any]) -> Self | None:
        """The failure in a container's ``terminated`` state; None if it ended well."""
        code = terminated.get("exitCode", 0)
        if code == 0:
            return None
        said = json_object(terminated.get("message", ""))
        reason = said.get("reason") or terminated.get("reason") or "Error"
        message = said.get("message") or f"The container ended with status {code} ({reason})."
        numbers = said.get("numbers")
        return cls(
            reason=str(reason)[:128],
            message=str(message)[:1024],
            numbers=_integers(numbers) if isinstance(numbers, Mapping) else {},
        )


def json_object(message: str) -> dict[str, Any]:
    """The JSON object in a termination message; empty if it holds something else."""
    try:
        said = json.loads(message)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _integers(numbers: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): value for name, value in numbers.items() if isinstance(value, int)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of a resource: a server, or an inspection."""

    name: str
    component: str = SERVER
    job: str = ""
    ip: str = ""
    template_hash: str = ""
    ready: bool = False
    deleting: bool = False
    unschedulable: str = ""
    """The scheduler's words if no node takes the pod."""
    waiting: str = ""
    """Why the container does not run, in the kubelet's word: ``ImagePullBackOff`` …"""
    failure: Failure | None = None
    """How the container ended last, if it ended badly and is not ready again."""
    restarts: int = 0
    output: str = ""
    """Termination message of a container that ended well."""
    deletion_cost: str = ""

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """A pod from the API server's JSON."""
        metadata, status = body["metadata"], body.get("status") or {}
        labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
        container: Mapping[str, Any] = next(iter(status.get("containerStatuses") or ()), {})
        conditions = {item["type"]: item for item in status.get("conditions") or ()}
        ready = conditions.get("Ready", {}).get("status") == "True"
        ended = _terminated(container)
        return cls(
            name=metadata["name"],
            component=labels.get(COMPONENT_LABEL, ""),
            job=labels.get("batch.kubernetes.io/job-name", ""),
            ip=status.get("podIP", ""),
            template_hash=notes.get(TEMPLATE_HASH, ""),
            ready=ready,
            deleting="deletionTimestamp" in metadata,
            unschedulable=_unschedulable(conditions.get("PodScheduled", {})),
            waiting=((container.get("state") or {}).get("waiting") or {}).get("reason", ""),
            failure=None if ready else Failure.read(ended),
            restarts=container.get("restartCount", 0),
            output=ended.get("message", "") if ended.get("exitCode") == 0 else "",
            deletion_cost=notes.get(DELETION_COST, ""),
        )


def _terminated(container: Mapping[str, Any]) -> Mapping[str, Any]:
    for state in (container.get("state"), container.get("lastState")):
        if state and state.get("terminated"):
            return dict(state["terminated"])
    return {}


def _unschedulable(condition: Mapping[str, Any]) -> str:
    if condition.get("status") == "False" and condition.get("reason") == "Unschedulable":
        return str(condition.get("message", "no node takes the pod"))
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The children of one resource, as the watch streams last showed them."""

    objects: Mapping[tuple[str, str], Manifest] = field(default_factory=dict)
    """Deployments, Services, PodDisruptionBudgets and Jobs by (kind, name)."""
    pods: tuple[Pod, ...] = ()

    @classmethod
    def of(cls, objects: Iterable[Manifest], pods: Iterable[Pod]) -> Self:
        """A snapshot, in an order that does not depend on the streams."""
        by_key = {(body["kind"], body["metadata"]["name"]): body for body in objects}
        return cls(objects=by_key, pods=tuple(sorted(pods, key=lambda pod: pod.name)))

    @property
    def servers(self) -> tuple[Pod, ...]:
        """Serving pods that are not about to go."""
        return tuple(pod for pod in self.pods if pod.component == SERVER and not pod.deleting)

    def inspections(self, job: str) -> tuple[Pod, ...]:
        """Pods of one inspection Job."""
        return tuple(pod for pod in self.pods if pod.component == INSPECTION and pod.job == job)


def trim(body: Mapping[str, Any], *, kind: str, api_version: str) -> Manifest:
    """A child as it is kept in memory: without the managers of its fields."""
    metadata = {k: v for k, v in body["metadata"].items() if k != "managedFields"}
    return {**body, "apiVersion": api_version, "kind": kind, "metadata": metadata}


def essence(body: Manifest) -> str:
    """A digest of the part of a child that the operator or a meddler may change.

    Replicas are left out: they have an owner of their own.
    """
    metadata = body["metadata"]
    notes = metadata.get("annotations") or {}
    return digest(
        [
            metadata.get("labels"),
            {k: v for k, v in notes.items() if not k.startswith("deployment.kubernetes.io/")},
            metadata.get("ownerReferences"),
            {k: v for k, v in (body.get("spec") or {}).items() if k != "replicas"},
        ]
    )
