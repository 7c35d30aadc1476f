"""The images that the node's containerd holds."""

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import host
from hack.cluster.archive import Archive
from hack.cluster.layout import Layout
from hack.errors import Refusal
from hack.progress import step

ID = "sha256:"
"""Kubernetes lists images a second time under the digest of their configuration."""

IMPORTING = "localhost/importing:latest"
"""Name of an image until it is unpacked: one that cannot be never takes the place of a good one."""


@dataclass(frozen=True)
class Image:
    """An image in containerd: name, digest of its manifest, size as containerd tells it."""

    name: str
    digest: str
    size: str


def answers(cluster: Layout) -> bool:
    """Whether containerd serves requests."""
    done = subprocess.run(_ctr(cluster, "images", "list", "-q"), capture_output=True, check=False)
    return done.returncode == 0


def images(cluster: Layout) -> list[Image]:
    """Everything that containerd lists, names and identifiers."""
    rows = [line.split() for line in _told(cluster, "images", "list").splitlines()[1:]]
    return [Image(name=row[0], digest=row[2], size=" ".join(row[3:5])) for row in rows]


def load(cluster: Layout, archives: Sequence[Path]) -> list[Archive]:
    """Import the archives that containerd does not hold yet, and return those.

    Of these it is given the layers that it lacks, no others.

    Raises:
        Refusal: the cluster is down, or a file is no image archive: nothing is imported then; or
            containerd refuses one: those before it are there, its own names lead where they led.
    """
    read = [Archive.read(path) for path in archives]
    held = {image.name: image.digest for image in images(cluster)}
    wanted = [a for a in read if any(held.get(name) != a.digest for name in a.names)]
    for archive in wanted:
        with step(f"Importing {archive.names[0]}") as current:
            blobs = set(_told(cluster, "content", "list", "-q").split())
            lacking = archive.missing(blobs)
            size = sum(layer.size for layer in lacking)
            current.detail = f"{len(lacking)} layers, {size / 1e6:.0f} MB"
            _import(cluster, archive, blobs)
    return wanted


def prune(cluster: Layout) -> None:
    """Let go of images that no name leads to any more: earlier builds of the same name."""
    listed = images(cluster)
    named = {image.digest for image in listed if not image.name.startswith(ID)}
    orphans = [image.name for image in listed if image.digest not in named]
    if orphans:
        # Left to itself containerd collects later, and takes layers away from under an import. Its
        # Kubernetes side may let go of an image first; whatever stays goes the next time.
        remove = _ctr(cluster, "images", "remove", "--sync", *orphans)
        subprocess.run(remove, capture_output=True, check=False)


def _import(cluster: Layout, archive: Archive, held: set[str]) -> None:
    refusal = _try_import(cluster, archive, held)
    if refusal and held:
        # Containerd may have let go of what it unpacked from a layer that it still holds.
        refusal = _try_import(cluster, archive, set())
    if refusal:
        _told(cluster, "images", "remove", IMPORTING)
        raise Refusal(
            f"containerd refuses {archive.path} ({refusal}): "
            f"build it again, and see {cluster.logs}/containerd.log."
        )
    _told(cluster, "images", "tag", "--force", IMPORTING, *archive.names)
    _told(cluster, "images", "remove", IMPORTING)


def _try_import(cluster: Layout, archive: Archive, held: set[str]) -> str:
    """Import without the blobs `held`; empty if it went well, else containerd's last words."""
    command = _ctr(cluster, "images", "import", "-")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as importing:
        assert importing.stdin
        # It may refuse, and stop reading, at any time: what it says then tells more.
        with suppress(BrokenPipeError):
            archive.write_layout(importing.stdin, IMPORTING, held)
        output, _ = importing.communicate()
    return output.decode().strip().splitlines()[-1] if importing.returncode else ""


def _told(cluster: Layout, *arguments: str) -> str:
    command = _ctr(cluster, *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _ctr(cluster: Layout, *arguments: str) -> list[str]:
    return host.inside(cluster, "ctr", "--namespace", "k8s.io", *arguments)
