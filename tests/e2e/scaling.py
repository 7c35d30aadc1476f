"""What the tests of the two outside autoscalers look at, and how they take it away."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from demo import view
from demo.cluster import Cluster
from demo.kube import Manifest
from demo.mirror import Mirror
from demo.story import Story
from hack.cluster import host
from hack.cluster.access import LocalCluster


def size(mirror: Mirror) -> int:
    """The size that is wanted."""
    deployment = mirror.get("Deployment", view.NAME)
    return deployment["spec"]["replicas"] if deployment else 0


def owners(mirror: Mirror) -> list[tuple[str, str]]:
    """Manager and subresource of each entry that owns the size, in ``managedFields``."""
    deployment = mirror.get("Deployment", view.NAME)
    assert deployment
    return [
        (entry["manager"], entry.get("subresource", ""))
        for entry in deployment["metadata"]["managedFields"]
        if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
    ]


def answering(story: Story) -> int:
    """How many servers are ready and have finished a request."""
    ready = view.ready_servers(story.servers)
    return sum(view.metric(story.metrics(pod), "vllm:request_success_total") > 0 for pod in ready)


def stays(mirror: Mirror, wanted: int, *, seconds: float) -> None:
    """The size is `wanted` all the time."""
    end = time.monotonic() + seconds
    mirror.until(
        lambda _: size(mirror) != wanted or time.monotonic() > end, "the end", seconds=2 * seconds
    )
    assert size(mirror) == wanted


@contextmanager
def cut_off(cluster: Cluster, pod: Manifest, *, port: int) -> Iterator[None]:
    """A firewall on the node between `pod` and that port of all others, until the block ends."""
    assert isinstance(cluster.access, LocalCluster), "only the local node's firewall is at hand"
    source = ("--source", pod["status"]["podIP"])
    rule = ("FORWARD", *source, "--protocol", "tcp", "--dport", str(port), "--jump", "DROP")

    def iptables(change: str) -> None:
        assert isinstance(cluster.access, LocalCluster)
        subprocess.run(host.inside(cluster.access.layout, "iptables", change, *rule), check=True)

    iptables("--insert")
    try:
        yield
    finally:
        iptables("--delete")
