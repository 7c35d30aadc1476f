"""The programs of the cluster, built once from their Go modules and kept."""

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.cache import Cache
from hack.cluster import golang
from hack.errors import Refusal
from hack.progress import Step, step

UNFINISHED = ".building-"
HERE = Path(__file__).parent
ROOM_BYTES = 8_000_000_000
"""Free disk that a first build needs: module sources, build cache, programs."""


@dataclass(frozen=True)
class Module:
    """A Go module: its folder and the programs (package → file name) that it gives.

    Attributes:
        tags: what its packages are asked to leave out or to take in.
    """

    name: str
    source: Path
    programs: tuple[tuple[str, str], ...]
    tags: str = ""

    @property
    def key(self) -> str:
        """Names what the programs are built from; other sources, another key."""
        digest = hashlib.sha256(self.tags.encode())
        for path in sorted(p for p in self.source.rglob("*") if p.is_file()):
            digest.update(f"{path.relative_to(self.source)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:12]

    @property
    def requirements(self) -> str:
        """The text of `go.mod`."""
        return (self.source / "go.mod").read_text()


KUBE = Module("kube", HERE / "kube", ((".", "kube"), ("./pause", "pause")))
COREDNS = Module("coredns", HERE / "coredns", ((".", "coredns"),))
KEDA = Module(
    "keda",
    HERE / "keda",
    (
        ("github.com/kedacore/keda/v2/cmd/operator", "keda"),
        ("github.com/kedacore/keda/v2/cmd/adapter", "keda-adapter"),
        ("github.com/kedacore/keda/v2/cmd/webhooks", "keda-admission-webhooks"),
    ),
)
"""The programs have the names that they have in KEDA's own images."""
PROMETHEUS = Module(
    "prometheus",
    HERE / "prometheus",
    (("github.com/prometheus/prometheus/cmd/prometheus", "prometheus"),),
    # Else it knows every cloud's machines, which takes longer to compile than all the rest.
    tags="remove_all_sd,enable_kubernetes_sd",
)
MODULES = (KUBE, COREDNS, KEDA, PROMETHEUS)
"""The cluster needs the first two; the others are for `hack.keda`."""


@dataclass(frozen=True)
class Programs:
    """Paths of the finished programs."""

    kube: Path
    pause: Path
    coredns: Path


def kubernetes_version() -> str:
    """The Kubernetes version that `go.mod` names, for example `v1.37.2`."""
    return required(KUBE, "k8s.io/kubernetes")


def programs(cache: Cache) -> Programs:
    """Build what is not built yet and return where it lies.

    Raises:
        Refusal: no Go, no room, or a compiler error.
    """
    kube, coredns = build(KUBE, cache), build(COREDNS, cache)
    return Programs(kube / "kube", kube / "pause", coredns / "coredns")


def build(module: Module, cache: Cache) -> Path:
    """Return the folder of `module`'s programs, building them first unless they are there.

    The folder gets its name only when all of them are finished: a build that was interrupted
    leaves nothing that could be taken for one.
    """
    finished = cache.programs / f"{module.name}-{module.key}"
    if not finished.is_dir():
        with cache.locked("build"):
            # Another run may have built it while this one waited.
            if not finished.is_dir():
                _build(module, cache, finished)
    return finished


def _build(module: Module, cache: Cache, finished: Path) -> None:
    go = golang.find(cache, minimum=minimum_go(module))
    require_room(cache.root, ROOM_BYTES, what=f"building {module.name}")
    cache.programs.mkdir(parents=True, exist_ok=True)
    for abandoned in cache.programs.glob(f"{UNFINISHED}*"):
        shutil.rmtree(abandoned)
    with _unfinished(finished) as folder:
        with step(f"Go modules of {module.name}"):
            _run([go, "mod", "download"], module)
        for package, program in module.programs:
            with step(f"Compiling {program}") as current:
                _compile(go, module, package, folder / program, current)


def prune(cache: Cache) -> None:
    """Remove the programs of other versions of the sources, but none that are being built."""
    current = {f"{module.name}-{module.key}" for module in MODULES}
    for folder in cache.programs.glob("[!.]*-*"):
        if folder.name not in current:
            shutil.rmtree(folder)


def require_room(folder: Path, bytes_needed: int, *, what: str) -> None:
    """Refuse if the file system of `folder` has less than `bytes_needed` free."""
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < bytes_needed:
        raise Refusal(
            f"{what[0].upper()}{what[1:]} needs {bytes_needed / 1e9:.0f} GB free but {existing} "
            f"has {free / 1e9:.1f} GB: free some, or set KVARN_CACHE to a folder on a larger disk."
        )


@contextmanager
def _unfinished(finished: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=finished.parent) as folder:
        building = Path(folder) / "programs"
        building.mkdir()
        yield building
        building.rename(finished)


def _compile(go: Path, module: Module, package: str, target: Path, current: Step) -> None:
    flags = " ".join(["-s -w", *_version_flags(module)])
    options: list[str | Path] = ["-v", "-trimpath", "-ldflags", flags, "-o", target]
    if module.tags:
        options += ["-tags", module.tags]
    for compiled, _ in enumerate(_lines([go, "build", *options, package], module), start=1):
        current.detail = f"{compiled} packages"


def _version_flags(module: Module) -> list[str]:
    if module is not KUBE:
        return []
    tag = kubernetes_version()
    major, minor, _ = tag.removeprefix("v").split(".", 2)
    values = {
        "gitVersion": tag,
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return [
        f"-X {package}.{name}={value}" for package in packages for name, value in values.items()
    ]


def _run(command: Sequence[str | Path], module: Module) -> None:
    deque(_lines(command, module), maxlen=0)


def _lines(command: Sequence[str | Path], module: Module) -> Iterator[str]:
    """Yield what `command` prints as it prints it; refuse with the last lines if it fails."""
    with subprocess.Popen(
        command,
        cwd=module.source,
        env=golang.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        last: deque[str] = deque(maxlen=5)
        for line in process.stdout:
            last.append(line.rstrip())
            yield line
    if process.returncode:
        raise Refusal(
            f"Building {module.name} failed; if modules could not be fetched, set GOPROXY to a "
            f"Go module proxy that this machine reaches and run it again. Go says: "
            + " / ".join(last)
        )


def minimum_go(module: Module) -> tuple[int, int]:
    """The oldest Go, as (major, minor), that `module` says it compiles with."""
    found = re.search(r"^go (\d+)\.(\d+)", module.requirements, re.MULTILINE)
    assert found, f"{module.source}/go.mod has no go line"
    return int(found[1]), int(found[2])


def required(module: Module, path: str) -> str:
    """The version of the Go module `path` that `module` requires."""
    line = rf"^(?:\t|require ){re.escape(path)} (v\S+)$"
    found = re.search(line, module.requirements, re.MULTILINE)
    assert found, f"{module.source}/go.mod does not require {path}"
    return found[1]
