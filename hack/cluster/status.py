"""What the cluster consists of at this moment, for people and for programs."""

import json
import re
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hack.cluster import build, containerd, host
from hack.cluster.layout import Layout

PODS = "pods"
NODE = "node"


@dataclass(frozen=True)
class Process:
    """A process of the node: its component, id on the host and memory."""

    component: str
    pid: int
    memory_bytes: int


@dataclass(frozen=True)
class Status:
    """The cluster as it is. `memory_bytes` is the proportional set size by component.

    Everything that is no component of the node counts as `pods`.
    """

    state: str
    kubeconfig: str
    memory_bytes: dict[str, int]
    versions: dict[str, str]
    nodes: dict[str, str]
    images: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def status(cluster: Layout) -> Status:
    """Look at the cluster. State is `down`, `starting` or `up`."""
    if host.node_pid(cluster) is None:
        return Status("down", "", {}, versions(), {}, {})
    up = host.api_ready(cluster) and host.node_ready(cluster)
    memory: dict[str, int] = {}
    for process in processes(cluster):
        memory[process.component] = memory.get(process.component, 0) + process.memory_bytes
    return Status(
        state="up" if up else "starting",
        kubeconfig=str(cluster.cache.kubeconfig),
        memory_bytes=memory,
        versions=versions(),
        nodes=_nodes(cluster) if up else {},
        images={
            image.name: image.size
            for image in (containerd.images(cluster) if up else [])
            if not image.name.startswith(containerd.ID)
        },
    )


def processes(cluster: Layout) -> list[Process]:
    """Every process of the node and of its pods."""
    recorded = json.loads(cluster.processes.read_text()) if cluster.processes.exists() else {}
    components = {pid: name for name, pid in recorded.items()} | {1: NODE}
    found = (_process(pid, components) for pid in _descendants(host.require_running(cluster)))
    return [process for process in found if process]


def versions() -> dict[str, str]:
    """Versions of what the cluster is made of; from the machine where it is the machine's."""
    return {
        "kubernetes": build.kubernetes_version(),
        "etcd": build.required(build.KUBE, "go.etcd.io/etcd/server/v3"),
        "kwok": build.required(build.KUBE, "sigs.k8s.io/kwok"),
        "coredns": build.required(build.COREDNS, "github.com/coredns/coredns"),
        "containerd": _told("containerd"),
        "runc": _told("runc"),
    }


def _nodes(cluster: Layout) -> dict[str, str]:
    told = host.ask(cluster, "get", "nodes", "-o", "json")
    return {
        node["metadata"]["name"]: next(
            ("Ready" if condition["status"] == "True" else "NotReady")
            for condition in node["status"]["conditions"]
            if condition["type"] == "Ready"
        )
        for node in json.loads(told or '{"items": []}')["items"]
    }


def _descendants(ancestor: int) -> list[int]:
    """A process and all below it; those of pods have process namespaces of their own."""
    found, pending = [], [ancestor]
    while pending:
        pid = pending.pop()
        found.append(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with suppress(OSError):
                pending += map(int, children.read_text().split())
    return found


def _process(pid: int, components: dict[int, str]) -> Process | None:
    folder = Path(f"/proc/{pid}")
    # A process may end while it is looked at.
    try:
        # Its ids from the host's namespace inwards: the second is the node's.
        ids = re.search(r"^NSpid:\t\d+\t(\d+)", (folder / "status").read_text(), re.MULTILINE)
        used = re.search(r"^Pss:\s+(\d+) kB", (folder / "smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return None
    name = components.get(int(ids[1]) if ids else 0, PODS)
    return Process(name, pid, int(used[1]) * 1024 if used else 0)


def _told(program: str) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not installed"
    found = re.search(r"\d+\.\d+\.\d+", done.stdout)
    return found[0] if found else "unknown"
