"""What Kubernetes objects say, in the few words that a person waits for."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from demo.kube import Manifest

NAME = "demo"
OWNER_LABEL = "serving.kvarn.dev/deployment"


def status(resource: Manifest | None) -> Manifest:
    """The status; empty where there is none yet."""
    return dict((resource or {}).get("status") or {})


def condition(resource: Manifest | None, kind: str) -> Manifest:
    """One of the conditions; empty where there is none."""
    conditions = status(resource).get("conditions") or ()
    return next((item for item in conditions if item["type"] == kind), {})


def is_true(resource: Manifest | None, kind: str) -> bool:
    """Whether a condition holds for the spec as it stands."""
    if resource is None:
        return False
    found = condition(resource, kind)
    current = found.get("observedGeneration", 0) == resource["metadata"]["generation"]
    return current and found.get("status") == "True"


def rolled_out(deployment: Manifest | None) -> bool:
    """Whether all pods are of the present template and ready, and no others are left."""
    if deployment is None:
        return False
    found, wanted = status(deployment), deployment["spec"].get("replicas", 1)
    seen = found.get("observedGeneration", 0) >= deployment["metadata"]["generation"]
    counts = (found.get(name, 0) for name in ("updatedReplicas", "readyReplicas", "replicas"))
    return seen and set(counts) == {wanted}


def servers(pods: Iterable[Manifest], name: str = NAME) -> list[Manifest]:
    """The serving pods of a resource, those included that are about to go."""
    labels = ((pod, pod["metadata"].get("labels") or {}) for pod in pods)
    return [
        pod
        for pod, label in labels
        if label.get(OWNER_LABEL) == name and label.get("app.kubernetes.io/component") == "server"
    ]


def is_ready(pod: Manifest) -> bool:
    """Whether a pod gets requests."""
    conditions = status(pod).get("conditions") or ()
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def is_running(pod: Manifest | None) -> bool:
    """Whether a pod's containers have started."""
    return status(pod).get("phase") == "Running"


def ready_servers(pods: Iterable[Manifest], name: str = NAME) -> list[Manifest]:
    """The serving pods that get requests."""
    return [pod for pod in servers(pods, name) if is_ready(pod)]


def pod_state(pod: Manifest) -> str:
    """One word: Running, Ready, Draining, or why it waits or failed."""
    if "deletionTimestamp" in pod["metadata"]:
        return "Draining"
    if is_ready(pod):
        return "Ready"
    for container in status(pod).get("containerStatuses") or ():
        state: dict[str, Any] = container.get("state") or {}
        for kind in ("waiting", "terminated"):
            if kind in state:
                return str(state[kind].get("reason") or kind)
    return str(status(pod).get("phase", "Pending"))


def pod_states(pods: Iterable[Manifest]) -> str:
    """Each pod with its state, in one line."""
    return ", ".join(f"{pod['metadata']['name']} {pod_state(pod)}" for pod in pods)


def pod_counts(pods: Iterable[Manifest]) -> str:
    """How many pods are in which state."""
    states = Counter(pod_state(pod) for pod in pods)
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def headline(resource: Manifest | None) -> str:
    """Why it is ready, or not yet, in one word; empty without a status."""
    ready = condition(resource, "Ready")
    return str(ready.get("reason", ""))


def belongs(child: Manifest, name: str = NAME) -> bool:
    """Whether an object was made for the resource."""
    return bool((child["metadata"].get("labels") or {}).get(OWNER_LABEL) == name)


def metric(text: str, name: str) -> float:
    """The sum of a metric over its labels, in Prometheus' text format; 0 where there is none."""
    samples = (
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )
    return sum(sample.value for sample in samples)
