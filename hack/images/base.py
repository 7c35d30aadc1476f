"""The base image where no registry is reached: a small Debian with Python."""

import hashlib
import subprocess
from pathlib import Path

from hack.cache import Cache
from hack.errors import Refusal
from hack.images import buildah
from hack.progress import step

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "libnuma1", "libstdc++6", "python3", "python3-venv")
UNREAD = ("doc", "info", "lintian", "locale", "man")
DOCKERFILE = Path(__file__).parents[2] / "images" / "base" / "Dockerfile"
# Debian's own hook: without it a whole Perl comes along to merge /bin into /usr.
MERGED_USR = Path("/usr/share/mmdebstrap/hooks/merged-usr")


def key() -> str:
    """Names what the base is made of."""
    recipe = f"{SUITE} {PACKAGES} {UNREAD} {DOCKERFILE.read_text()}"
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def base(cache: Cache) -> str:
    """Return the name of the base image in buildah's store, making it first if need be.

    Raises:
        Refusal: Debian's packages could not be had.
    """
    name = f"localhost/kvarn-base:{key()}"
    if buildah.identity(cache, name) is None:
        context = cache.images / "base"
        context.mkdir(parents=True, exist_ok=True)
        with step("Base system"):
            _bootstrap(context / "root.tar")
        image = buildah.Build(name=name, dockerfile=DOCKERFILE, context=context)
        with step("Base image") as current:
            buildah.build(cache, image, log=cache.images / "base.log", current=current)
        (context / "root.tar").unlink()
    return name


def _bootstrap(target: Path) -> None:
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in UNREAD]
    options = ["--quiet", "--variant=essential", f"--hook-dir={MERGED_USR}"]
    chosen = [f"--include={','.join(PACKAGES)}", *excluded]
    done = subprocess.run(
        ["mmdebstrap", *options, *chosen, SUITE, str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        target.unlink(missing_ok=True)
        reason = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["no word"]
        raise Refusal(
            f"No base image could be made ({reason[0][:200]}): point apt at a Debian mirror that "
            "this machine reaches, or name an image to start from with --base."
        )
