"""Pods that the demo runs beside the servers, one of a name at a time."""

from demo.kube import Kube, Manifest
from demo.mirror import Mirror
from demo.view import is_running

SECONDS = 180.0
"""Longest wait for a pod to start or to end."""


def start(kube: Kube, mirror: Mirror, pod: Manifest) -> None:
    """Run `pod`, in place of what an earlier run may have left; returns when it has started."""
    name = pod["metadata"]["name"]
    remove(kube, mirror, name)
    kube.apply(pod)
    mirror.until(
        lambda mirror: is_running(mirror.get("Pod", name)), f"pod {name} running", seconds=SECONDS
    )


def remove(kube: Kube, mirror: Mirror, name: str) -> None:
    """Delete a pod, if there is one; returns when it is gone."""
    kube.delete("Pod", name, namespace=mirror.namespace)
    mirror.until(
        lambda mirror: mirror.get("Pod", name) is None,
        f"the deletion of pod {name}",
        seconds=SECONDS,
    )
