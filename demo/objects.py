"""The Kubernetes objects that the demo makes besides the resource itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from demo.kube import Manifest
from hack.images.build import IMAGES

NAMESPACE = "kvarn-demo"
CLAIM = "demo-model"
LONGEST_SECONDS = 1800
"""After that a pod ends by itself, should the demo have been killed."""

RESTRICTED = {
    f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")
}


def namespace() -> Manifest:
    """The demo's namespace, which admits only what Pod Security calls restricted."""
    return _object("Namespace", NAMESPACE, labels=RESTRICTED)


def host_volume(model: Path) -> Manifest:
    """The folder above `model` on the local cluster's node, for the claim alone."""
    return {
        **_object("PersistentVolume", f"{CLAIM}-{model.parent.name}", labels={"app": CLAIM}),
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "capacity": {"storage": "1Gi"},
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(model.parent), "type": "Directory"},
            "claimRef": {"namespace": NAMESPACE, "name": CLAIM},
        },
    }


def claim(*, volume: str = "") -> Manifest:
    """The claim that the sample names: on `volume`, else on one of the default storage class."""
    place = {"volumeName": volume, "storageClassName": ""} if volume else {}
    return {
        **_object("PersistentVolumeClaim", CLAIM),
        "spec": {
            "accessModes": ["ReadOnlyMany" if volume else "ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            **place,
        },
    }


def config_map(name: str, files: Sequence[Path]) -> Manifest:
    """Text files under their own names."""
    return {**_object("ConfigMap", name), "data": {file.name: file.read_text() for file in files}}


def pod(name: str, command: Sequence[str], *, volume: Manifest, path: str) -> Manifest:
    """A restricted pod of the operator's image that runs `command` once, with one volume."""
    container = {
        "name": name,
        "image": IMAGES["operator"].name,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "volumeMounts": [{"name": "files", "mountPath": path}],
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    return {
        **_object("Pod", name),
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LONGEST_SECONDS,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 60,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "files", **volume}],
        },
    }


def _object(kind: str, name: str, labels: Mapping[str, str] | None = None) -> Manifest:
    cluster_wide = kind in {"Namespace", "PersistentVolume"}
    place = {} if cluster_wide else {"namespace": NAMESPACE}
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {"name": name, "labels": dict(labels or {}), **place},
    }
