"""Puts into a cluster what the demo stands on: the operator, a namespace, the model's volume."""

import hashlib
import io
import re
import tarfile
from pathlib import Path

from demo import objects, pods, view
from demo.cluster import Cluster
from demo.kube import Kube, Manifest, read_manifests
from demo.mirror import Mirror
from hack import cache
from hack.cluster.access import Access
from hack.images.build import IMAGES
from hack.progress import Step

ROOT = Path(__file__).parents[1]
CRDS = ROOT / "crds"
EXAMPLE = ROOT / "manifests" / "example"
PLACEHOLDER = re.compile(r"registry\.example/kvarn-([a-z-]+):[0-9.]+")
"""What `EXAMPLE` calls an image."""
OPERATOR_NAMESPACE = "kvarn-system"
OPERATOR = "kvarn-operator"
SECONDS = 180.0
"""Longest wait for a step of the installation."""

LOADER = "model-loader"
WAIT = "import signal; signal.signal(signal.SIGTERM, lambda *_: None); signal.pause()"
UNPACK = (
    "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall('/models')"
)


def install_operator(cluster: Cluster, kube: Kube, current: Step) -> None:
    """Apply the CRD and an installation, and wait until the operator of this source runs."""
    kube.apply(*read_manifests(*(path.read_text() for path in sorted(CRDS.glob("*.yaml")))))
    rendered = cluster.kubectl("kustomize", str(EXAMPLE))
    kube.apply(*read_manifests(installation(rendered, cluster.access)))
    _tell_image(kube)
    with Mirror(kube, OPERATOR_NAMESPACE, ("Deployment", "Pod")) as mirror:
        mirror.until(
            lambda mirror: view.rolled_out(mirror.get("Deployment", OPERATOR)),
            "the operator's roll-out",
            seconds=SECONDS,
            tell=lambda mirror: setattr(current, "detail", view.pod_states(mirror.all("Pod"))),
        )
    current.detail = f"{OPERATOR_NAMESPACE}/{OPERATOR}"


def installation(rendered: str, access: Access) -> str:
    """The manifests of `EXAMPLE` with the images as the nodes of a cluster find them."""
    return PLACEHOLDER.sub(lambda found: access.image(IMAGES[found[1]].name), rendered)


def prepare_namespace(cluster: Cluster, kube: Kube, model: Path) -> None:
    """Make the demo's namespace and, in it, the claim that holds the model."""
    if cluster.is_local:
        volume = objects.host_volume(model)
        _remove_other_volumes(kube, volume)
        kube.apply(objects.namespace(), volume)
        kube.apply(objects.claim(volume=volume["metadata"]["name"]))
    else:
        kube.apply(objects.namespace(), objects.claim())
        _fill_claim(cluster, kube, model)


def remove_namespace(kube: Kube) -> None:
    """Delete the demo's namespace and volume; returns when they are gone."""
    if kube.get("Namespace", objects.NAMESPACE) is None:
        return
    for resource in kube.list("KVarNDeployment", namespace=objects.NAMESPACE):
        kube.delete("KVarNDeployment", resource["metadata"]["name"], namespace=objects.NAMESPACE)
    with Mirror(kube, objects.NAMESPACE, ("Pod",)) as mirror:
        # Namespaces look again for what is left only after half the pods' grace period.
        mirror.until(lambda mirror: not mirror.all("Pod"), "the end of the pods", seconds=SECONDS)
        kube.delete("Namespace", objects.NAMESPACE)
        mirror.until(
            lambda _: kube.get("Namespace", objects.NAMESPACE) is None,
            "the namespace's deletion",
            seconds=SECONDS,
        )
    for volume in kube.list("PersistentVolume", selector=f"app={objects.CLAIM}"):
        kube.delete("PersistentVolume", volume["metadata"]["name"])


def operator_memory_bytes(cluster: Cluster) -> int:
    """Resident memory of the operator's process, shared libraries included."""
    command = (f"--namespace={OPERATOR_NAMESPACE}", f"deployment/{OPERATOR}", "--")
    told = cluster.kubectl("exec", *command, "cat", "/proc/1/status")
    (line,) = (line for line in told.splitlines() if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


def _tell_image(kube: Kube) -> None:
    """Write into the pod template which image this is: its name stays the same."""
    stamp = cache.default().images / f"{IMAGES['operator'].title}.json"
    digest = hashlib.sha256(stamp.read_bytes()).hexdigest()[:16]
    metadata = {"annotations": {"serving.kvarn.dev/operator-image": digest}}
    change = {"spec": {"template": {"metadata": metadata}}}
    kube.patch("Deployment", OPERATOR, namespace=OPERATOR_NAMESPACE, change=change)


def _remove_other_volumes(kube: Kube, wanted: Manifest) -> None:
    """Begin anew where an earlier run left a volume of another model, or one without its claim."""
    for volume in kube.list("PersistentVolume", selector=f"app={objects.CLAIM}"):
        is_other = volume["metadata"]["name"] != wanted["metadata"]["name"]
        if is_other or view.status(volume).get("phase") == "Released":
            remove_namespace(kube)
            return


def _fill_claim(cluster: Cluster, kube: Kube, model: Path) -> None:
    """Copy the model into the claim through a pod that waits for it."""
    volume = {"persistentVolumeClaim": {"claimName": objects.CLAIM}}
    pod = objects.pod(LOADER, ["python3", "-c", WAIT], volume=volume, path="/models")
    execute = ("exec", "--stdin", f"--namespace={objects.NAMESPACE}", LOADER, "--")
    with Mirror(kube, objects.NAMESPACE, ("Pod",)) as mirror:
        pods.start(kube, mirror, pod)
        cluster.kubectl(*execute, "python3", "-c", UNPACK, stdin=_archive(model))
        pods.remove(kube, mirror, LOADER)


def _archive(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(folder, arcname=folder.name)
    return buffer.getvalue()
