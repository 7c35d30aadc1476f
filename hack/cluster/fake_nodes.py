"""GPU nodes that kwok plays: pods are scheduled onto them and become Ready, but run nowhere."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any

from hack.cluster import host
from hack.cluster.layout import Layout
from hack.errors import Refusal
from kvarn.planner.accelerators import Accelerator
from kvarn.planner.errors import AcceleratorError

MIB = 1 << 20
RESOURCE = "nvidia.com/gpu"
MARK = "kvarn.dev/fake-gpu-node"
"""Label of the nodes made here."""


@dataclass(frozen=True)
class Kind:
    """What each node has: `gpus` cards of one product with `memory_bytes` each."""

    gpus: int
    product: str
    memory_bytes: int

    @classmethod
    def of(cls, product: str, *, gpus: int) -> "Kind":
        """Nodes of a product that the planner knows.

        Raises:
            Refusal: it does not know it.
        """
        try:
            card = Accelerator.find(product)
        except AcceleratorError as error:
            raise Refusal(str(error)) from error
        return cls(gpus, product, card.memory_bytes)

    def node(self, number: int) -> dict[str, Any]:
        """The manifest of a node, labelled as NVIDIA's feature discovery labels real ones."""
        name = f"fake-gpu-{number}"
        resources = {"cpu": "64", "memory": "512Gi", "pods": "110", RESOURCE: str(self.gpus)}
        labels = {
            MARK: "true",
            "kubernetes.io/hostname": name,
            f"{RESOURCE}.count": str(self.gpus),
            f"{RESOURCE}.product": self.product,
            f"{RESOURCE}.memory": str(self.memory_bytes // MIB),
        }
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": labels,
                "annotations": {"kwok.x-k8s.io/node": "fake"},
            },
            # Pods that ask for a GPU tolerate this by themselves; others must run for real.
            "spec": {"taints": [{"key": RESOURCE, "value": "present", "effect": "NoSchedule"}]},
            "status": {"capacity": resources, "allocatable": resources},
        }


def set_nodes(cluster: Layout, count: int, kind: Kind) -> None:
    """Make the fake nodes be `count` of this kind: create what lacks, remove what does not fit.

    Raises:
        Refusal: the cluster is down.
    """
    host.require_running(cluster)
    wanted = {node["metadata"]["name"]: node for node in map(kind.node, range(count))}
    present = {node["metadata"]["name"]: node for node in _present(cluster)}
    wrong = [name for name, node in present.items() if not _fits(node, wanted.get(name))]
    if wrong:
        _kubectl(cluster, "delete", "node", *wrong)
    missing = [node for name, node in wanted.items() if name in wrong or name not in present]
    if missing:
        manifests = {"apiVersion": "v1", "kind": "List", "items": missing}
        _kubectl(cluster, "create", "-f", "-", manifests=json.dumps(manifests))
        names = [f"node/{node['metadata']['name']}" for node in missing]
        _kubectl(cluster, "wait", "--for=condition=Ready", "--timeout=60s", *names)


def _present(cluster: Layout) -> list[dict[str, Any]]:
    listed = host.ask(cluster, "get", "nodes", "-l", MARK, "-o", "json")
    items: list[dict[str, Any]] = json.loads(listed or '{"items": []}')["items"]
    return items


def _fits(node: dict[str, Any], wanted: dict[str, Any] | None) -> bool:
    return wanted is not None and all(
        node["metadata"]["labels"].get(name) == value
        for name, value in wanted["metadata"]["labels"].items()
    )


def _kubectl(cluster: Layout, *arguments: str, manifests: str | None = None) -> None:
    done = subprocess.run(
        host.kubectl(cluster, *arguments),
        input=manifests,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Refusal(f"The fake nodes could not be changed: {done.stderr.strip()}")
