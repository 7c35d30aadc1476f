"""Pinned wheels unpacked into a folder that goes on PYTHONPATH, before what is installed."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hack.cache import Cache
from hack.cluster.build import require_room
from hack.errors import Refusal
from hack.progress import step


@dataclass(frozen=True)
class Wheels:
    """What is unpacked together.

    Attributes:
        name: of the project and its version, for people.
        requirements: a requirements file with hashes.
        download_megabytes: of the wheels.
        room_bytes: free disk that the work needs.
    """

    name: str
    requirements: str
    download_megabytes: int
    room_bytes: int

    def unpack(self, cache: Cache, folder: Path, finish: Callable[[Path], None]) -> None:
        """Make a folder of the wheels unless it is there; it appears when all is done.

        Args:
            cache: of which the folder is a part.
            folder: to be made.
            finish: is given the unfinished folder once it holds the wheels.

        Raises:
            Refusal: there is no room, or the wheels could not be had.
        """
        if folder.exists():
            return
        require_room(cache.root, self.room_bytes, what=f"unpacking {self.name}")
        with (
            step(f"{self.name} ({self.download_megabytes} MB)"),
            tempfile.TemporaryDirectory(prefix=".wheels-", dir=folder.parent) as unfinished,
        ):
            tree = Path(unfinished) / "tree"
            self._install(Path(unfinished) / "requirements.txt", tree)
            finish(tree)
            tree.rename(folder)

    def _install(self, requirements: Path, tree: Path) -> None:
        requirements.write_text(self.requirements)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir"]
        checked = ["--require-hashes", "--only-binary=:all:", f"--requirement={requirements}"]
        done = subprocess.run(
            [*command, *checked, f"--target={tree}"], stdout=sys.stderr, check=False
        )
        if done.returncode:
            raise Refusal(
                f"pip could not fetch {self.name}: configure pip for an index that this machine "
                "reaches."
            )
