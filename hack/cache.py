"""Where the tools keep what is costly to make again."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO


@dataclass(frozen=True)
class Cache:
    """The folders under one root; none of them need exist."""

    root: Path

    @property
    def programs(self) -> Path:
        """One folder for each Go module built, named after what went into it."""
        return self.root / "bin"

    @property
    def containerd(self) -> Path:
        """Images as containerd keeps them: survives `down`, so that no image is imported twice."""
        return self.root / "containerd"

    @property
    def images(self) -> Path:
        """Image archives and what they were built from."""
        return self.root / "images"

    @property
    def buildah(self) -> Path:
        """Buildah's own store: layers that later builds start from."""
        return self.root / "buildah"

    @property
    def wheels(self) -> Path:
        """Python wheels made here."""
        return self.root / "wheels"

    @property
    def triton(self) -> Path:
        """What Triton has compiled, as it keeps it: by source, options, GPU and release."""
        return self.root / "triton"

    @property
    def cluster(self) -> Path:
        """State of the running cluster; gone after `down`."""
        return self.root / "cluster"

    @property
    def kubeconfig(self) -> Path:
        """The cluster administrator's kubeconfig."""
        return self.cluster / "kubeconfig"

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Hold the lock called `what`: two runs do not make the same thing at the same time.

        Raises:
            Refusal: nothing can be written below the root.
        """
        with self._lock_file(what) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _lock_file(self, what: str) -> TextIO:
        locks = self.root / "locks"
        try:
            locks.mkdir(parents=True, exist_ok=True)
            return (locks / what).open("w")
        except OSError as error:
            from hack.errors import Refusal  # noqa: PLC0415 - the node does without click

            raise Refusal(
                f"{self.root} cannot be written ({error.strerror}): "
                "set KVARN_CACHE to a folder that you may write."
            ) from None


def default() -> Cache:
    """`$KVARN_CACHE`, else `~/.cache/kvarn`."""
    return Cache(Path(os.environ.get("KVARN_CACHE") or Path.home() / ".cache" / "kvarn").absolute())
