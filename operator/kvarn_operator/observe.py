"""What is seen of a resource's children, cut down to what decisions need."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

from pydantic import ValidationError

from kvarn_operator import GROUP, KIND
from kvarn_operator.api.status import Lesson

COMPONENT_LABEL = "app.kubernetes.io/component"
SERVER = "server"
INSPECTION = "inspection"
CONTAINERS = {SERVER: "server", INSPECTION: "inspect"}
"""By component, the container that does the work: pods may have sidecars beside it."""
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
TEMPLATE_HASH = f"{GROUP}/template-hash"
MAX_SEQUENCES = "--max-num-seqs"
"""vLLM's flag for what `Pod.max_sequences` says."""
STARTING = frozenset({"", "ContainerCreating", "PodInitializing"})
"""What a container waits for that will run by and by."""
PROTECTION = {
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
}
"""Annotations that keep node autoscalers from taking a pod away."""
LOCAL_VOLUMES = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
"""The volumes whose loss is no reason to leave a pod where it is."""
EVICTION = (*PROTECTION, LOCAL_VOLUMES)
"""All that the operator tells node autoscalers of a pod."""

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
    ended: bool = False
    """Whether it was evicted, refused by its node, or has done its work: it stays an object."""
    max_sequences: int = 0
    """That it was started to run at once; 0 if its command does not say."""
    unschedulable: str = ""
    """The scheduler's words if no node takes the pod."""
    waiting: str = ""
    """Why a container does not run, in the kubelet's word: ``ImagePullBackOff`` …"""
    failure: Failure | None = None
    """How the container ended last, if it ended badly and is not ready again."""
    restarts: int = 0
    output: str = ""
    """Termination message of a container that ended well."""
    deletion_cost: str = ""
    eviction: frozenset[str] = frozenset()
    """Which annotations of `EVICTION` it has."""

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """A pod from the API server's JSON."""
        metadata, status = body["metadata"], body.get("status") or {}
        labels, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
        component = labels.get(COMPONENT_LABEL, "")
        container = _container(status, CONTAINERS.get(component, ""))
        conditions = {item["type"]: item for item in status.get("conditions") or ()}
        ready = conditions.get("Ready", {}).get("status") == "True"
        ended = _terminated(container)
        return cls(
            name=metadata["name"],
            component=component,
            job=labels.get("batch.kubernetes.io/job-name", ""),
            ip=status.get("podIP", ""),
            template_hash=notes.get(TEMPLATE_HASH, ""),
            ready=ready,
            deleting="deletionTimestamp" in metadata,
            ended=status.get("phase") in {"Failed", "Succeeded"},
            max_sequences=_stated(body, CONTAINERS.get(component, ""), MAX_SEQUENCES),
            unschedulable=_unschedulable(conditions.get("PodScheduled", {})),
            waiting=_waiting(status, container),
            failure=None if ready else Failure.read(ended),
            restarts=container.get("restartCount", 0),
            output=ended.get("message", "") if ended.get("exitCode") == 0 else "",
            deletion_cost=notes.get(DELETION_COST, ""),
            eviction=frozenset(notes.keys() & EVICTION),
        )

    @property
    def is_loading(self) -> bool:
        """Whether it is on a node, or soon will be, and may yet become ready by itself."""
        if self.ready or self.deleting or self.is_held_up:
            return False
        return self.failure is None

    @property
    def is_held_up(self) -> bool:
        """Whether no node takes it, or its node does not run it: one that failed, for a while."""
        return bool(self.unschedulable) or self.waiting not in STARTING


def _container(status: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The status of one container; empty while there is none."""
    statuses: Iterable[Mapping[str, Any]] = status.get("containerStatuses") or ()
    return next((each for each in statuses if each["name"] == name), {})


def _waiting(status: Mapping[str, Any], container: Mapping[str, Any]) -> str:
    """What `container` waits for; if that is nothing bad, what another one does."""
    others = (
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    )
    reasons = [_reason(container), *map(_reason, others)]
    return next((reason for reason in reasons if reason not in STARTING), reasons[0])


def _reason(container: Mapping[str, Any]) -> str:
    return str(((container.get("state") or {}).get("waiting") or {}).get("reason", ""))


def _stated(body: Mapping[str, Any], name: str, flag: str) -> int:
    """The number that a container's command gives `flag`; 0 if it gives none."""
    containers: Iterable[Mapping[str, Any]] = (body.get("spec") or {}).get("containers") or ()
    command = next((each.get("args") or () for each in containers if each["name"] == name), ())
    value = dict(pairwise(command)).get(flag, "")
    return int(value) if value.isdecimal() else 0


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
class Child:
    """A Deployment, Service, PodDisruptionBudget, autoscaler or Job of a resource.

    Attributes:
        owners: by uid, the names of its owners of the operator's kind; empty for others.
        essence: equal as long as nobody changes what the operator applied; see `essence`.
        replicas: of a Deployment.
        template_hash: what pods of a Deployment's present template carry.
    """

    kind: str
    name: str
    owners: Mapping[str, str] = field(default_factory=dict)
    essence: str = ""
    generation: int = 0
    replicas: int = 1
    template_hash: str = ""
    status: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, body: Mapping[str, Any], *, kind: str) -> Self:
        """A child from the API server's JSON."""
        metadata, spec = body["metadata"], body.get("spec") or {}
        template = spec.get("template", {}).get("metadata") or {}
        return cls(
            kind=kind,
            name=metadata["name"],
            owners={
                owner["uid"]: owner["name"] if owner["kind"] == KIND else ""
                for owner in metadata.get("ownerReferences") or ()
            },
            essence=essence(body),
            generation=metadata.get("generation", 0),
            replicas=spec.get("replicas", 1),
            template_hash=(template.get("annotations") or {}).get(TEMPLATE_HASH, ""),
            status=dict(body.get("status") or {}),
        )

    def condition(self, kind: str) -> Mapping[str, str]:
        """One of its conditions; empty if it has none such."""
        conditions = self.status.get("conditions") or ()
        return next((c for c in conditions if c["type"] == kind), {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The children of one resource, and what its namespace learned, as the streams last showed."""

    children: Mapping[tuple[str, str], Child] = field(default_factory=dict)
    """By (kind, name)."""
    pods: tuple[Pod, ...] = ()
    lessons: tuple[Lesson, ...] = ()
    """What all resources of the namespace have learned from starts."""

    @classmethod
    def of(
        cls, children: Iterable[Child], pods: Iterable[Pod], lessons: Iterable[Lesson] = ()
    ) -> Self:
        """A snapshot, in an order that does not depend on the streams."""
        by_key = {(child.kind, child.name): child for child in children}
        ordered = tuple(sorted(pods, key=lambda pod: pod.name))
        return cls(children=by_key, pods=ordered, lessons=tuple(lessons))

    @property
    def servers(self) -> tuple[Pod, ...]:
        """Serving pods that are there to stay."""
        return tuple(pod for pod in self._alive if not pod.deleting)

    @property
    def draining(self) -> tuple[Pod, ...]:
        """Serving pods that are about to go, and finish what they have."""
        return tuple(pod for pod in self._alive if pod.deleting)

    @property
    def _alive(self) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.pods if pod.component == SERVER and not pod.ended)

    def inspections(self, job: str) -> tuple[Pod, ...]:
        """Pods of one inspection Job."""
        return tuple(pod for pod in self.pods if pod.component == INSPECTION and pod.job == job)


def lessons(body: Mapping[str, Any]) -> list[Lesson]:
    """What a resource has learned, by its status; nothing where an older operator wrote it."""
    try:
        return [
            Lesson.model_validate(lesson)
            for lesson in (body.get("status") or {}).get("lessons") or ()
        ]
    except ValidationError:
        return []


def essence(body: Mapping[str, Any]) -> str:
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
