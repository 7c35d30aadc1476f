"""Names, addresses and paths of one local cluster."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from hack.cache import Cache
from hack.cluster.components import Endpoints

DEFAULT_PORT = 6443
NODE = "kvarn"
NODE_IP = "10.88.0.2"
FAKE_NODE_IP = "10.88.0.3"
INSIDE = Endpoints(etcd=2379, etcd_peer=2380, api=6443)
"""Ports in the node's own network, the same for every cluster."""

CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
CNI_FOLDER = Path("/var/lib/cni")
KUBELET_FOLDER = Path("/var/lib/kubelet")
"""Fixed places of network plugins and of kubelet: the node mounts folders of its own there.

On the host both stay, empty: removing one would pull it from under the node of another cluster.
"""


@dataclass(frozen=True)
class Layout:
    """One cluster: everything follows from its cache."""

    cache: Cache

    @property
    def state(self) -> Path:
        """All state but the images; gone after `down`."""
        return self.cache.cluster

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.state / "pki"

    @property
    def configuration(self) -> Path:
        """Configuration files of the components."""
        return self.state / "configuration"

    @property
    def kubeconfigs(self) -> Path:
        """A kubeconfig for each component, for use inside the node's network."""
        return self.state / "kubeconfigs"

    @property
    def logs(self) -> Path:
        """`COMPONENT.log` for each, and `node.log` of process 1."""
        return self.state / "logs"

    @property
    def node_pid(self) -> Path:
        """Holds the process id, as the host sees it, of the node's process 1."""
        return self.state / "node.pid"

    @property
    def processes(self) -> Path:
        """JSON that the node keeps: component → process id inside the node."""
        return self.state / "processes.json"

    @property
    def kubelet(self) -> Path:
        """What kubelet keeps, volumes of pods among it; the node's /var/lib/kubelet."""
        return self.state / "kubelet"

    @property
    def cgroup(self) -> str:
        """Name of the control group that pods live under, one for each cache on the machine."""
        return f"kvarn-{hashlib.sha256(os.fsencode(self.cache.root)).hexdigest()[:8]}"


def cgroup_roots() -> list[Path]:
    """Mount points of the control group hierarchies, version 1 or 2."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [Path(mount[1]) for mount in mounts if mount[2] in ("cgroup", "cgroup2")]
