"""The project's images: what each is made of, and whether that changed."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hack.cache import Cache
from hack.cluster.build import require_room
from hack.errors import Refusal
from hack.images import base as base_image
from hack.images import buildah
from hack.progress import console, step

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "kvarn", "operator")
"""What the project's wheel is made of."""
TORCH_CPU = ROOT / "images" / "serving-cpu" / "torch_cpu.py"


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image: its Dockerfile and what goes in besides the project's wheel."""

    title: str
    dockerfile: str
    inputs: tuple[str, ...] = ()
    needs_torch: bool = False
    room_bytes: int = 1_000_000_000

    @property
    def name(self) -> str:
        """The name that pods use."""
        return f"localhost/kvarn-{self.title}:dev"


IMAGES = {
    image.title: image
    for image in (
        Image(title="operator", dockerfile="Dockerfile", inputs=("requirements/operator.txt",)),
        Image(
            title="serving-cpu",
            dockerfile="images/serving-cpu/Dockerfile",
            inputs=(
                "requirements/bootstrap.txt",
                "requirements/serving-cpu.txt",
                "images/serving-cpu",
            ),
            needs_torch=True,
            room_bytes=6_000_000_000,
        ),
        # Its base cannot be made here: only with --base.
        Image(title="serving", dockerfile="images/serving/Dockerfile"),
    )
}
DEFAULT = ("operator", "serving-cpu")


def build(image: Image, cache: Cache, *, base: str | None = None) -> Path:
    """Return the archive of `image`, built again only if something that goes in changed.

    It starts from the image `base`, the Dockerfile's build argument BASE, or from one made here.

    Raises:
        Refusal: see the message; an archive from before stays as it is.
    """
    archive = cache.images / f"{image.title}.tar"
    with cache.locked("images"):
        if _is_current(archive, key := inputs(image, base)):
            console.print(f"[green]✓[/] {image.name} is up to date  {_megabytes(archive)}")
        else:
            _build(image, cache, archive, base=base)
            _stamp(archive).write_text(json.dumps({"inputs": key}))
    return archive


def _is_current(archive: Path, key: str) -> bool:
    stamp = _stamp(archive)
    return archive.exists() and stamp.exists() and json.loads(stamp.read_text())["inputs"] == key


def _stamp(archive: Path) -> Path:
    return archive.with_suffix(".json")


def _build(image: Image, cache: Cache, archive: Path, *, base: str | None) -> None:
    require_room(cache.root, image.room_bytes, what=f"building {image.name}")
    archive.parent.mkdir(parents=True, exist_ok=True)
    _stamp(archive).unlink(missing_ok=True)
    definition = _definition(image, cache, base or base_image.base(cache))
    with step(f"Building {image.name}") as current:
        buildah.build(cache, definition, log=archive.with_suffix(".log"), current=current)
    with step(f"Writing {archive.name}") as current:
        buildah.push(cache, image.name, archive)
        current.detail = _megabytes(archive)
    buildah.prune(cache)


def torch_wheel(cache: Cache) -> Path:
    """The CPU-only wheel of torch, made first if need be.

    Raises:
        Refusal: it could not be had; the script has said why.
    """
    done = subprocess.run(
        [sys.executable, TORCH_CPU, "--cache", cache.wheels],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Refusal("There is no CPU-only torch to build with: see the line above.")
    return Path(done.stdout.strip())


def _definition(image: Image, cache: Cache, base: str) -> buildah.Build:
    wheels = cache.images / "wheels"
    wheels.mkdir(exist_ok=True)
    with step("The project's wheel"):
        _project_wheel(wheels)
    if image.needs_torch:
        _link_with_checksum(torch_wheel(cache), wheels)
    return buildah.Build(
        name=image.name,
        dockerfile=ROOT / image.dockerfile,
        context=ROOT,
        arguments={"BASE": base},
        contexts={"wheels": wheels},
    )


def _project_wheel(target: Path) -> None:
    for old in target.glob("kvarn-*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    done = subprocess.run(
        [*command, "--directory", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refusal(f"The project's wheel cannot be built: {done.stderr.strip()[-300:]}")


def _link_with_checksum(wheel: Path, folder: Path) -> None:
    for old in folder.glob("torch-*"):
        old.unlink()
    (folder / wheel.name).hardlink_to(wheel)
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    (folder / f"{wheel.name}.sha256").write_text(f"{digest}  {wheel.name}\n")


def inputs(image: Image, base: str | None) -> str:
    """A digest of everything that the image is made of, by content and by name."""
    digest = hashlib.sha256((base or base_image.key()).encode())
    for path in _files((*SOURCES, image.dockerfile, *image.inputs)):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(names: Iterable[str]) -> Iterable[Path]:
    for name in names:
        path = ROOT / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (p for p in found if p.is_file() and "__pycache__" not in p.parts)


def _megabytes(archive: Path) -> str:
    return f"{archive.stat().st_size / 1e6:.0f} MB"
