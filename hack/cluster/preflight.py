"""What must hold on the machine before a cluster can start, each with its remedy."""

import os
import platform
import subprocess
from pathlib import Path

from hack.cluster.apiserver import port_is_taken
from hack.cluster.layout import Layout
from hack.errors import Refusal
from hack.progress import step

SYSTEM_PACKAGES = Path(__file__).parents[1] / "system-packages"


def check(cluster: Layout, *, port: int) -> None:
    """Refuse with one sentence if the cluster could not run here.

    Installs missing Debian packages on the way.
    """
    require_linux(platform.system(), platform.machine())
    require_root(os.geteuid(), what="the local cluster")
    require_free_port(port)
    install_packages()
    load_modules()
    require_overlay(Path("/proc/filesystems").read_text())
    require_plain_disk(cluster.cache.root)


def require_linux(system: str, machine: str) -> None:
    """Containers need a Linux kernel, and the pinned programs an x86-64."""
    if (system, machine) != ("Linux", "x86_64"):
        raise Refusal(
            f"The local cluster runs on x86-64 Linux and this is {machine} {system}: set "
            "KUBECONFIG to use another cluster."
        )


def require_root(user: int, *, what: str) -> None:
    """Namespaces, mounts and control groups are root's."""
    if user != 0:
        raise Refusal(
            f"{what[0].upper()}{what[1:]} needs root: run the command with sudo, or set "
            "KUBECONFIG to use another cluster."
        )


def require_free_port(port: int) -> None:
    """The API server is reached at this port of 127.0.0.1."""
    if port_is_taken(port):
        raise Refusal(
            f"Port {port} on 127.0.0.1 is taken: end the program that holds it "
            f"(`ss -ltnp 'sport = :{port}'` names it), or give another port with --port."
        )


def install_packages() -> None:
    """Install the Debian packages that the node needs, unless they are there."""
    with step("System packages"):
        done = subprocess.run([SYSTEM_PACKAGES], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["apt-get failed"])[-1]
        raise Refusal(f"System packages are missing and could not be installed: {reason}")


def load_modules() -> None:
    """Ask for the kernel modules that containers use; kernels often have them built in."""
    for module in ("overlay", "br_netfilter"):
        subprocess.run(["modprobe", "--quiet", module], check=False)


def require_overlay(filesystems: str) -> None:
    """Containerd lays an image's layers over each other with overlayfs."""
    if "overlay" not in filesystems.split():
        raise Refusal(
            "This kernel has no overlayfs, which containers need: load it with `modprobe overlay`, "
            "or set KUBECONFIG to use another cluster."
        )


def require_plain_disk(folder: Path) -> None:
    """An overlay cannot lie on another overlay, as in a container's own file system."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = subprocess.run(
        ["stat", "--file-system", "--format=%T", folder], check=True, capture_output=True, text=True
    ).stdout.strip()
    if kind == "overlayfs":
        raise Refusal(
            f"{folder} lies on overlayfs, which cannot hold container images: set KVARN_CACHE to "
            "a folder on ext4, xfs or tmpfs."
        )
