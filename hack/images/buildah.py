"""Buildah with a store of its own below the cache."""

import os
import subprocess
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hack.cache import Cache
from hack.errors import Refusal
from hack.progress import Step

CERTIFICATES = Path("/etc/ssl/certs")
PIP_CONFIGURATION = Path("/etc/pip.conf")
INDEX_VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX")
"""Where the host says that packages come from, the build steps take them from there too."""

NOISE = ("STEP", "Error: building at STEP", "subprocess exited", "exit status", "time=")
"""How lines begin in which buildah tells that a step failed, but not why its command did."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """What one image is built from, in the words of `docker build`."""

    name: str
    dockerfile: Path
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, Path] = field(default_factory=dict)


def build(cache: Cache, image: Build, *, log: Path, current: Step) -> None:
    """Build `image` into the store; layers whose inputs did not change are taken from it.

    Raises:
        Refusal: a step of the Dockerfile failed; the message has its last line and the log's path.
    """
    options = [
        "--layers",
        "--force-rm",
        "--isolation=chroot",
        "--network=host",
        f"--tag={image.name}",
        f"--file={image.dockerfile}",
        *(f"--volume={path}:{path}:ro" for path in _host_files()),
        *(f"--build-arg={name}={value}" for name, value in _arguments(image).items()),
        *(f"--build-context={name}={path}" for name, path in image.contexts.items()),
    ]
    command = _buildah(cache, "build", *options, str(image.context))
    with log.open("w") as file:
        for line in _lines(command, image.name, log):
            file.write(line)
            if line.startswith("STEP"):
                current.detail = line.partition(":")[0].lower()


def push(cache: Cache, name: str, archive: Path) -> None:
    """Write the image `name` of the store as an archive; whole or not at all."""
    unfinished = archive.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    run(cache, "push", "--quiet", name, f"docker-archive:{unfinished}:{name}")
    unfinished.rename(archive)


def prune(cache: Cache) -> None:
    """Remove layers that no image of the store is made of any more."""
    run(cache, "rmi", "--prune")


def identity(cache: Cache, name: str) -> str | None:
    """The digest of the image's configuration, or None if the store has no such image."""
    command = _buildah(cache, "images", "--quiet", "--no-trunc", name)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None


def run(cache: Cache, *arguments: str | Path) -> str:
    """Run a buildah command and return what it prints, without the line's end."""
    done = subprocess.run(_buildah(cache, *arguments), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Refusal(
            f"buildah {arguments[0]} failed ({last}): if its store is damaged, remove "
            f"{cache.buildah} and build again."
        )
    return done.stdout.strip()


def _buildah(cache: Cache, *arguments: str | Path) -> list[str]:
    store = [f"--root={cache.buildah}/store", f"--runroot={cache.buildah}/run"]
    # Without the option, the store stays mounted on itself when buildah is done.
    driver = ["--storage-driver=overlay", "--storage-opt=overlay.skip_mount_home=true"]
    return ["buildah", *store, *driver, *map(str, arguments)]


def _host_files() -> list[Path]:
    return [path for path in (CERTIFICATES, PIP_CONFIGURATION) if path.exists()]


def _arguments(image: Build) -> dict[str, str]:
    configured = {name: os.environ[name] for name in INDEX_VARIABLES if name in os.environ}
    return {**configured, **image.arguments}


def _lines(command: Sequence[str], name: str, log: Path) -> Iterator[str]:
    said: deque[str] = deque(maxlen=50)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            said.append(line.strip())
            yield line
    if process.returncode:
        raise Refusal(
            f"Building {name} failed ({_cause(said)}): {log} says all; if packages or the base "
            "image could not be fetched, set PIP_INDEX_URL to an index, or name another image "
            "with --base, that this machine reaches."
        )


def _cause(said: Sequence[str]) -> str:
    """The last words of a step's command, else the end of buildah's own."""
    words = [line for line in said if line and not line.startswith(NOISE)]
    return (words or ["", *said])[-1][-300:]
