"""The cluster that the demo runs in, with its images and a connection to it."""

import shutil
import subprocess
from dataclasses import dataclass

from demo.kube import Kube
from hack import cache
from hack.cluster import host, lifecycle
from hack.cluster.access import Access, LocalCluster, find
from hack.errors import Refusal
from hack.images import build as images


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up.

    Attributes:
        started_here: whether it was down before.
    """

    access: Access
    started_here: bool

    @property
    def is_local(self) -> bool:
        """Whether its node is this machine, so that folders can be mounted."""
        return isinstance(self.access, LocalCluster)

    def connect(self) -> Kube:
        """A connection as the kubeconfig's user."""
        return Kube(self.access.kubeconfig)

    def kubectl(self, *arguments: str, stdin: bytes | None = None) -> str:
        """What kubectl prints.

        Raises:
            Refusal: there is none, or it fails.
        """
        done = subprocess.run(
            [*self._kubectl(), *arguments], input=stdin, capture_output=True, check=False
        )
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip()
            raise Refusal(f"`kubectl {' '.join(arguments[:2])}` failed: {words}")
        return done.stdout.decode()

    def take_down(self) -> None:
        """Stop the local cluster if it was started here; leave any other as it was found."""
        if isinstance(self.access, LocalCluster) and self.started_here:
            lifecycle.down(self.access.layout)

    def _kubectl(self) -> list[str]:
        if isinstance(self.access, LocalCluster):
            return host.kubectl(self.access.layout)
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            raise Refusal("There is no kubectl: install one, or unset KUBECONFIG.")
        return [kubectl, f"--kubeconfig={self.access.kubeconfig}"]


def ensure_cluster() -> Cluster:
    """The cluster that `KUBECONFIG` names, else one on this machine, started if need be.

    Raises:
        Refusal: it cannot be used or started.
    """
    access = find(cache.default())
    was_up = not isinstance(access, LocalCluster) or lifecycle.is_healthy(access.layout)
    access.ensure_up()
    return Cluster(access=access, started_here=not was_up)


def ensure_images(cluster: Cluster) -> None:
    """Build the images whose inputs changed and bring them to the cluster's nodes."""
    archives = [images.build(images.IMAGES[title], cache.default()) for title in images.DEFAULT]
    cluster.access.load(archives)
