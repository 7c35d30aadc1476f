"""The images that the node's containerd holds."""

import json
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import host
from hack.cluster.layout import Layout
from hack.errors import Refusal
from hack.progress import step

ID = "sha256:"
"""Containerd lists every image a second time under the digest of its configuration."""


@dataclass(frozen=True)
class Archive:
    """An image archive as `docker save` and `buildah push docker-archive:` write it."""

    path: Path
    config: str
    names: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "Archive":
        """Read what is in the archive.

        Raises:
            Refusal: there is no such file, or it is no image archive.
        """
        try:
            with tarfile.open(path) as tar:
                member = tar.extractfile("manifest.json")
                assert member
                (image,) = json.load(member)
        except FileNotFoundError:
            raise Refusal(
                f"{path} does not exist: `python -m hack.images build` makes the archives."
            ) from None
        except (tarfile.TarError, KeyError, ValueError):
            raise Refusal(
                f"{path} is no image archive: make one with `docker save` or "
                "`buildah push IMAGE docker-archive:FILE`."
            ) from None
        config = Path(image["Config"]).name.removesuffix(".json")
        return cls(path, config, tuple(image["RepoTags"]))


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
    listing = subprocess.run(
        _ctr(cluster, "images", "list"), check=True, capture_output=True, text=True
    ).stdout
    rows = [line.split() for line in listing.splitlines()[1:]]
    return [Image(name=row[0], digest=row[2], size=" ".join(row[3:5])) for row in rows]


def load(cluster: Layout, archives: Sequence[Path]) -> list[Archive]:
    """Import the archives that containerd does not hold yet, and return those.

    Raises:
        Refusal: the cluster is down, or a file is no image archive; nothing is imported then.
    """
    read = [Archive.read(path) for path in archives]
    held = {image.name: image.digest for image in images(cluster)}
    missing = [archive for archive in read if not _holds(cluster, held, archive)]
    for archive in missing:
        with step(f"Importing {archive.names[0]}") as current:
            current.detail = f"{archive.path.stat().st_size / 1e6:.0f} MB"
            _import(cluster, archive)
    return missing


def prune(cluster: Layout) -> None:
    """Let go of images that no name leads to any more: earlier builds of the same name."""
    listed = images(cluster)
    named = {image.digest for image in listed if not image.name.startswith(ID)}
    orphans = [image.name for image in listed if image.digest not in named]
    if orphans:
        subprocess.run(
            _ctr(cluster, "images", "remove", *orphans), check=True, stdout=subprocess.DEVNULL
        )


def _holds(cluster: Layout, held: dict[str, str], archive: Archive) -> bool:
    return all(
        name in held and _config(cluster, held[name]) == ID + archive.config
        for name in archive.names
    )


def _config(cluster: Layout, manifest: str) -> str:
    """The digest of the configuration that a manifest in containerd's store names."""
    told = subprocess.run(
        _ctr(cluster, "content", "get", manifest), check=True, capture_output=True, text=True
    ).stdout
    return str(json.loads(told).get("config", {}).get("digest", ""))


def _import(cluster: Layout, archive: Archive) -> None:
    done = subprocess.run(
        _ctr(cluster, "images", "import", archive.path.absolute()),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Refusal(
            f"containerd refuses {archive.path} ({done.stderr.strip().splitlines()[-1]}): build it "
            f"again, and see {cluster.logs}/containerd.log."
        )


def _ctr(cluster: Layout, *arguments: str | Path) -> list[str]:
    return host.inside(cluster, "ctr", "--namespace", "k8s.io", *arguments)
