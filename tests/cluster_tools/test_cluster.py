"""The local cluster does what a cluster does, and leaves nothing behind."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from hack import cache as caches
from hack.cluster import build, containerd, fake_nodes, host, lifecycle, status
from hack.cluster.archive import Archive
from hack.cluster.layout import CNI_FOLDER, KUBELET_FOLDER, Layout, cgroup_roots
from hack.errors import Refusal
from hack.images import build as images

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
]

IMAGE = images.IMAGES["operator"]
FOLDERS = (CNI_FOLDER, KUBELET_FOLDER)
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
Until = Callable[[Callable[[], object]], None]


def kubectl(cluster: Layout, *arguments: str, manifests: Any = None) -> str:
    done = subprocess.run(
        host.kubectl(cluster, *arguments),
        input=json.dumps(manifests) if manifests else None,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def namespace(cluster: Layout) -> str:
    """A namespace that admits only what Pod Security calls restricted."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": "strict", "labels": labels}
    kubectl(
        *(cluster, "apply", "-f", "-"),
        manifests={"apiVersion": "v1", "kind": "Namespace", "metadata": metadata},
    )
    containerd.load(cluster, [images.build(IMAGE, caches.default())])
    return "strict"


def pod(name: str, code: str, **spec: Any) -> dict[str, Any]:
    """A pod that runs Python code under every restriction."""
    container = {
        "name": "main",
        "image": IMAGE.name,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", code],
        "securityContext": RESTRICTED,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "strict", "labels": {"app": name}},
        "spec": {"restartPolicy": "Never", "containers": [container | spec.pop("container", {})]}
        | spec,
    }


def output(cluster: Layout, name: str) -> str:
    """What a pod printed, after it succeeded."""
    done = "--for=jsonpath={.status.phase}=Succeeded"
    kubectl(cluster, "-n", "strict", "wait", done, f"pod/{name}", "--timeout=60s")
    return kubectl(cluster, "-n", "strict", "logs", name)


def test_names_resolve_in_a_pod(cluster: Layout, namespace: str) -> None:
    code = "import socket; print(socket.gethostbyname('kubernetes.default.svc.cluster.local'))"
    kubectl(cluster, "apply", "-f", "-", manifests=pod("dns", code))
    assert output(cluster, "dns") == "10.96.0.1\n"


def test_a_pod_that_is_not_restricted_is_refused(cluster: Layout, namespace: str) -> None:
    with pytest.raises(AssertionError, match='violates PodSecurity "restricted'):
        kubectl(cluster, "-n", namespace, "run", "p", "--image=x", "--privileged")


def test_a_claim_binds_to_a_folder_of_the_host(
    cluster: Layout, namespace: str, tmp_path: Path
) -> None:
    """A static volume, bound by claimRef, with a file that the host wrote."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (tmp_path / "word").write_text("from the host")
    common = {
        "accessModes": ["ReadOnlyMany"],
        "storageClassName": "",
        "volumeMode": "Filesystem",
    }
    volume = common | {
        "capacity": {"storage": "1Gi"},
        "claimRef": {"namespace": namespace, "name": "models"},
        "hostPath": {"path": str(tmp_path), "type": "Directory"},
    }
    claim = common | {"resources": {"requests": {"storage": "1Gi"}}, "volumeName": "models"}
    reader = pod(
        "reader",
        "print(open('/models/word').read())",
        container={"volumeMounts": [{"name": "models", "mountPath": "/models"}]},
        volumes=[{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
    )
    items = [
        {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec}
        for kind, metadata, spec in (
            ("PersistentVolume", {"name": "models"}, volume),
            ("PersistentVolumeClaim", {"name": "models", "namespace": namespace}, claim),
        )
    ]
    listed = {"apiVersion": "v1", "kind": "List", "items": [*items, reader]}
    kubectl(cluster, "apply", "-f", "-", manifests=listed)
    assert output(cluster, "reader") == "from the host\n"


def test_a_service_is_reached_by_name_from_the_node(
    cluster: Layout, namespace: str, tmp_path: Path
) -> None:
    web = pod("web", "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000)")
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    listed = {"apiVersion": "v1", "kind": "List", "items": [web, service]}
    kubectl(cluster, "apply", "-f", "-", manifests=listed)
    kubectl(cluster, "-n", namespace, "wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
    fetch = "import urllib.request as u; print(u.urlopen('http://web.strict/').status)"
    asked = host.inside(cluster, sys.executable, "-c", fetch)
    done = subprocess.run(asked, check=True, capture_output=True, text=True)
    assert done.stdout == "200\n"


def test_gpu_pods_become_ready_on_fake_nodes(cluster: Layout, namespace: str) -> None:
    """Eight-GPU pods go to the two fake nodes by themselves; a third one waits."""
    fake_nodes.set_nodes(cluster, 2, fake_nodes.Kind.of("NVIDIA-H100-80GB-HBM3", gpus=8))
    wanted = {"limits": {"nvidia.com/gpu": 8}}
    for number in range(3):
        gpu_pod = pod(f"gpu-{number}", "", container={"resources": wanted})
        kubectl(cluster, "apply", "-f", "-", manifests=gpu_pod)
    ready = ["wait", "--for=condition=Ready", "--timeout=30s"]
    kubectl(cluster, "-n", namespace, *ready, "pod/gpu-0", "pod/gpu-1")
    phase = ["get", "pod", "gpu-2", "-o", "jsonpath={.status.phase}"]
    assert kubectl(cluster, "-n", namespace, *phase) == "Pending"


def test_fake_nodes_carry_the_labels_of_real_ones_and_go_away(cluster: Layout) -> None:
    kind = fake_nodes.Kind.of("NVIDIA-H100-80GB-HBM3", gpus=4)
    fake_nodes.set_nodes(cluster, 1, kind)
    node = json.loads(kubectl(cluster, "get", "node", "fake-gpu-0", "-o", "json"))
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-H100-80GB-HBM3"
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "4"
    fake_nodes.set_nodes(cluster, 0, kind)
    assert kubectl(cluster, "get", "nodes", "-o", "name") == "node/kvarn\n"


def test_a_component_that_dies_comes_back(cluster: Layout, until: Until) -> None:
    def scheduler() -> list[int]:
        return [p.pid for p in status.processes(cluster) if p.component == "kube-scheduler"]

    (before,) = scheduler()
    os.kill(before, signal.SIGKILL)
    until(lambda: scheduler() not in ([], [before]))


def test_status_accounts_for_every_component(cluster: Layout) -> None:
    asked = [sys.executable, "-m", "hack.cluster", "status", "--json"]
    environment = os.environ | {"KVARN_CACHE": str(cluster.cache.root)}
    done = subprocess.run(asked, env=environment, check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert (told["state"], told["nodes"]) == ("up", {"kvarn": "Ready"})
    assert {"etcd", "kubelet", "containerd", "coredns"} <= told["memory_bytes"].keys()
    assert all(told["memory_bytes"].values())


def test_a_new_build_under_the_same_name_is_what_new_pods_run(
    cluster: Layout, namespace: str, tmp_path: Path
) -> None:
    """Also when the build before it is let go of between two loads."""
    code = "import os; print(os.environ['BUILD'])"
    for build_number in ("1", "2", "3"):
        containerd.prune(cluster)
        archive = changed(images.build(IMAGE, caches.default()), tmp_path, BUILD=build_number)
        assert len(containerd.load(cluster, [archive])) == 1
        name = f"build-{build_number}"
        kubectl(cluster, "apply", "-f", "-", manifests=pod(name, code))
        assert output(cluster, name) == f"{build_number}\n"


def test_an_image_that_cannot_be_unpacked_does_not_take_the_place_of_a_good_one(
    cluster: Layout, tmp_path: Path
) -> None:
    good = images.build(IMAGE, caches.default())
    containerd.load(cluster, [good])
    before = named(cluster)
    for _ in range(2):
        with pytest.raises(Refusal, match="build it again"):
            containerd.load(cluster, [with_a_broken_layer(good, tmp_path)])
    assert named(cluster) == before


def named(cluster: Layout) -> dict[str, str]:
    """The digest of each image by the name that somebody gave it."""
    listed = containerd.images(cluster)
    return {
        image.name: image.digest for image in listed if not image.name.startswith(containerd.ID)
    }


def changed(archive: Path, folder: Path, **environment: str) -> Path:
    """A copy of an image archive whose containers have more environment."""

    def change(config: Any) -> None:
        config["config"]["Env"] += [f"{k}={v}" for k, v in environment.items()]

    return rewritten(archive, folder / f"{'-'.join(environment.values())}.tar", change)


def with_a_broken_layer(archive: Path, folder: Path) -> Path:
    """A copy of an image archive whose first layer is no tar, though its digest is right."""
    rubbish = b"no layer" * 1000

    def change(config: Any) -> None:
        config["rootfs"]["diff_ids"][0] = f"sha256:{hashlib.sha256(rubbish).hexdigest()}"

    first = Archive.read(archive).layers[0].member
    return rewritten(archive, folder / "broken.tar", change, {first: rubbish})


def rewritten(
    archive: Path,
    copy: Path,
    change: Callable[[Any], None],
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> Path:
    """A copy of an image archive with another configuration, and other files by name."""
    with tarfile.open(archive) as source, tarfile.open(copy, "w") as target:
        for member in source:
            content = source.extractfile(member)
            text = files.get(member.name)
            if content and member.name.endswith(".json") and member.name != "manifest.json":
                config = json.load(content)
                change(config)
                text = json.dumps(config).encode()
            if text is not None:
                member.size, content = len(text), io.BytesIO(text)
            target.addfile(member, content)
    return copy


def test_images_outlive_the_cluster(cluster: Layout, port: int) -> None:
    archives = [images.build(IMAGE, caches.default())]
    containerd.load(cluster, archives)
    lifecycle.down(cluster)
    lifecycle.up(cluster, port=port)
    assert containerd.load(cluster, archives) == []


def test_up_mends_a_cluster_whose_node_was_killed(cluster: Layout, port: int) -> None:
    before = host.require_running(cluster)
    host.kill_node(before)
    lifecycle.up(cluster, port=port)
    assert lifecycle.is_healthy(cluster)
    assert host.require_running(cluster) != before


def test_up_again_changes_nothing(cluster: Layout, port: int) -> None:
    before = host.require_running(cluster)
    lifecycle.up(cluster, port=port)
    assert host.require_running(cluster) == before


def test_a_taken_port_leaves_nothing_running(cluster: Layout, port: int) -> None:
    other = Layout(type(cluster.cache)(cluster.cache.root / "other"))
    with pytest.raises(Refusal, match=f"Port {port} .* is taken"):
        lifecycle.up(other, port=port)
    assert host.node_pid(other) is None


def test_down_leaves_nothing_on_the_host(down_cluster: Layout, port: int) -> None:
    """Interfaces, mounts, firewall, control groups and processes are as they were before."""
    lifecycle.down(down_cluster)
    before = traces(down_cluster)
    lifecycle.up(down_cluster, port=port)
    lifecycle.down(down_cluster)
    assert traces(down_cluster) == before
    assert not down_cluster.state.exists()


def traces(cluster: Layout) -> dict[str, Any]:
    """Everything by which a node could be noticed from outside."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    commands = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if ours(path)]
    return {
        "links": told("ip", "-o", "link"),
        "routes": told("ip", "route"),
        # Image builds of others come and go.
        "mounts": [line for line in mounts if "buildah" not in line],
        "rules": told("iptables-save") + told("nft", "list", "ruleset"),
        "groups": [root for root in cgroup_roots() if (root / cluster.cgroup).exists()],
        "folders": [list(folder.iterdir()) for folder in FOLDERS if folder.exists()],
        "processes": commands,
    }


def ours(cmdline: Path) -> bool:
    """Whether a process belongs to the test's cluster: its arguments name the cache."""
    try:
        return b"cluster-cache" in cmdline.read_bytes()
    except OSError:
        return False


def told(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_binary_is_the_version_that_the_module_names(cluster: Layout) -> None:
    told = json.loads(kubectl(cluster, "version", "-o", "json"))
    assert told["serverVersion"]["gitVersion"] == build.kubernetes_version()
