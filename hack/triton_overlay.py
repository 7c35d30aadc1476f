"""The releases of Triton that vLLM's GPU builds bring, beside the one installed, for tests alone.

    python -m hack.triton_overlay          prints the folders, each of which belongs on PYTHONPATH

vLLM 0.32 takes torch 2.13 and with it Triton 3.7, vLLM 0.33 torch 2.14 and Triton 3.8. Kernels are
compiled by all of them, which needs no GPU and no more of torch than is installed. What they make
is kept in the cache for a fortnight.
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import click

from hack import cache as caches
from hack.cache import Cache
from hack.wheels import Wheels


def _wheels(version: str, sha256: str, download_megabytes: int) -> Wheels:
    return Wheels(
        name=f"Triton {version}",
        requirements=f"triton=={version} --hash=sha256:{sha256}\n",
        download_megabytes=download_megabytes,
        room_bytes=2_000_000_000,
    )


RELEASES: Mapping[str, Wheels] = {
    "3.7.1": _wheels(
        "3.7.1", "6744957e9fd610a29680ec2346057d0c86948ed3812468670719f391e94b44a5", 198
    ),
    "3.8.0": _wheels(
        "3.8.0", "68988ac85d5e7086baeda0ddc175af9667db7529b3c5e11a5c0601b8bef2200a", 248
    ),
}
"""By version."""

KEPT_SECONDS = 14 * 24 * 3600
"""How long compiled kernels are kept."""


def overlay(cache: Cache, version: str) -> Path:
    """Return the folder from which Python imports a release of Triton, made first if need be.

    Raises:
        Refusal: there is no room, or the wheel could not be had.
    """
    folder = cache.root / f"triton-{version}"
    with cache.locked("triton"):
        RELEASES[version].unpack(cache, folder, _leave_out_profilers)
    return folder


def _leave_out_profilers(tree: Path) -> None:
    """Remove what measures kernels that run."""
    package = tree / "triton"
    for folder in (package / "backends" / "nvidia" / "lib").glob("cupti*"):
        shutil.rmtree(folder)
    (package / "_C" / "libproton.so").unlink()


def prune(cache: Cache, *, now: float) -> None:
    """Remove what was compiled long ago: all kernels take 200 MB, and each change adds to them."""
    if cache.triton.is_dir():
        for kernel in cache.triton.iterdir():
            if kernel.stat().st_mtime < now - KEPT_SECONDS:
                shutil.rmtree(kernel)


@click.command(help="Print the folders of the releases of Triton, made first if need be.")
def main() -> None:
    """The command line."""
    prune(caches.default(), now=time.time())
    for version in RELEASES:
        click.echo(overlay(caches.default(), version))


if __name__ == "__main__":
    main()
