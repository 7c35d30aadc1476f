"""The image of the process that holds a pod's namespaces."""

from pathlib import Path

from hack.cache import Cache
from hack.images import buildah
from hack.progress import step

NAME = "localhost/kvarn-pause:dev"
DOCKERFILE = Path(__file__).parents[2] / "images" / "pause" / "Dockerfile"


def archive(cache: Cache, program: Path) -> Path:
    """Return the archive of the image that holds `program`, made once for each build of it."""
    key = program.parent.name
    finished = cache.images / f"pause-{key}.tar"
    with cache.locked("images"):
        if not finished.exists():
            _build(cache, program, finished)
    return finished


def _build(cache: Cache, program: Path, finished: Path) -> None:
    cache.images.mkdir(parents=True, exist_ok=True)
    image = buildah.Build(name=NAME, dockerfile=DOCKERFILE, context=program.parent)
    with step("Pause image") as current:
        buildah.build(cache, image, log=cache.images / "pause.log", current=current)
        buildah.push(cache, NAME, finished)
