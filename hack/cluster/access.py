"""Which cluster to use, and how images get to its nodes.

In this order: the cluster that KUBECONFIG names; a kind cluster, where kind and a running Docker
are at hand; the local cluster of this package.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from hack.cache import Cache
from hack.cluster import containerd, lifecycle
from hack.cluster.layout import Layout
from hack.errors import Refusal
from hack.progress import step

KIND_CLUSTER = "kvarn"
"""Name of the kind cluster that is made where there is none."""


@dataclass(frozen=True)
class LocalCluster:
    """The cluster of this package: images are imported into its containerd."""

    layout: Layout

    @property
    def kubeconfig(self) -> Path:
        """An administrator's kubeconfig."""
        return self.layout.cache.kubeconfig

    def ensure_up(self) -> None:
        """Start it unless it is up."""
        lifecycle.up(self.layout)

    def load(self, archives: Sequence[Path]) -> None:
        """Import the images that are not there yet."""
        containerd.load(self.layout, archives)

    def image(self, name: str) -> str:
        """The reference by which pods find the image that was built as `name`."""
        return name


@dataclass(frozen=True)
class KindCluster:
    """A kind cluster: kind itself carries images to its nodes."""

    kubeconfig: Path
    name: str

    def ensure_up(self) -> None:
        """Create it unless it is there."""
        if self.name not in _output("kind", "get", "clusters").split():
            with step(f"Creating the kind cluster {self.name}"):
                _output("kind", "create", "cluster", "--name", self.name)
        if not self.kubeconfig.exists():
            config = _output("kind", "get", "kubeconfig", "--name", self.name)
            self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
            self.kubeconfig.touch(mode=0o600)
            self.kubeconfig.write_text(config)

    def load(self, archives: Sequence[Path]) -> None:
        """Carry the images to the nodes."""
        for archive in archives:
            with step(f"Loading {archive.name} into kind"):
                _output("kind", "load", "image-archive", str(archive), "--name", self.name)

    def image(self, name: str) -> str:
        """The reference by which pods find the image that was built as `name`."""
        return name


@dataclass(frozen=True)
class RemoteCluster:
    """Any other cluster: its nodes pull the images from a registry."""

    kubeconfig: Path
    registry: str

    def ensure_up(self) -> None:
        """It is its owner's to start."""

    def load(self, archives: Sequence[Path]) -> None:
        """The registry has the images already."""

    def image(self, name: str) -> str:
        """The reference by which pods find the image that was built as `name`."""
        return f"{self.registry}/{name.removeprefix('localhost/')}"


Access = LocalCluster | KindCluster | RemoteCluster


def find(cache: Cache, environment: Mapping[str, str] = os.environ) -> Access:
    """Decide which cluster to use; starts nothing.

    Raises:
        Refusal: KUBECONFIG names no usable file, or a cluster that images cannot be brought to.
    """
    named = environment.get("KUBECONFIG")
    if named and Path(named) != cache.kubeconfig:
        return _named(Path(named), environment.get("KVARN_IMAGE_REGISTRY"))
    if not named and _has_kind():
        return KindCluster(cache.root / "kind-kubeconfig", KIND_CLUSTER)
    return LocalCluster(Layout(cache))


def _named(kubeconfig: Path, registry: str | None) -> Access:
    context = _context(kubeconfig)
    if registry:
        return RemoteCluster(kubeconfig, registry.rstrip("/"))
    if context.startswith("kind-") and shutil.which("kind"):
        return KindCluster(kubeconfig, context.removeprefix("kind-"))
    raise Refusal(
        f"The nodes of {context or kubeconfig} must get the images from a registry: push them and "
        "set KVARN_IMAGE_REGISTRY to it, or unset KUBECONFIG to use a local cluster."
    )


def _context(kubeconfig: Path) -> str:
    try:
        config = yaml.safe_load(kubeconfig.read_text())
        return str(config.get("current-context") or "")
    except (OSError, yaml.YAMLError, AttributeError):
        raise Refusal(
            f"KUBECONFIG is {kubeconfig}, which is no kubeconfig: correct it, or unset it to use a "
            "local cluster."
        ) from None


def _has_kind() -> bool:
    if not shutil.which("kind") or not shutil.which("docker"):
        return False
    # A client without a daemon is of no use.
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Refusal(f"`{' '.join(command)}` failed ({last}): put it right, or set KUBECONFIG.")
    return done.stdout
