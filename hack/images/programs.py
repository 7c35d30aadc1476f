"""Images of programs that need nothing besides themselves."""

from dataclasses import dataclass
from pathlib import Path

from hack.cache import Cache
from hack.images import buildah
from hack.progress import step

DOCKERFILES = Path(__file__).parents[2] / "images"


@dataclass(frozen=True)
class ProgramImage:
    """An image whose Dockerfile copies programs out of a build's folder."""

    title: str

    @property
    def name(self) -> str:
        """The name that pods use."""
        return f"localhost/kvarn-{self.title}:dev"


PAUSE = ProgramImage("pause")
"""Holds a pod's namespaces."""
KEDA = ProgramImage("keda")
"""Operator, metrics server and admission webhooks."""
PROMETHEUS = ProgramImage("prometheus")


def archive(image: ProgramImage, cache: Cache, programs: Path) -> Path:
    """Return the archive of `image` with what lies in `programs`, made once for each build of it.

    Args:
        image: what to make.
        cache: where the archive goes; that of an earlier build is removed.
        programs: a folder of `hack.cluster.build`, named after what it was built from.
    """
    finished = cache.images / f"{image.title}-{programs.name}.tar"
    with cache.locked("images"):
        if not finished.exists():
            cache.images.mkdir(parents=True, exist_ok=True)
            for earlier in cache.images.glob(f"{image.title}-*.tar"):
                earlier.unlink()
            _build(image, cache, programs, finished)
    return finished


def _build(image: ProgramImage, cache: Cache, programs: Path, finished: Path) -> None:
    definition = buildah.Build(
        name=image.name,
        dockerfile=DOCKERFILES / image.title / "Dockerfile",
        context=programs,
    )
    with step(f"Image of {image.title}") as current:
        log = cache.images / f"{image.title}.log"
        buildah.build(cache, definition, log=log, current=current)
        buildah.push(cache, image.name, finished)
