"""Make PyTorch's CPU-only wheel from the CUDA wheel of the Python package index.

    python3 torch_cpu.py --cache DIR      prints the wheel's path; progress goes to standard error

vLLM for the CPU wants `torch==2.13.0+cpu`, which lies on PyTorch's own index alone. The CUDA wheel
of the same version holds the same CPU code, but does not import without three gigabytes of CUDA
libraries. Here its CUDA libraries are left out, and every shared object that the rest still asks
the loader for is replaced by a stub: CUDA's C functions answer "no device", all else aborts by
name.

Set KVARN_TORCH_WHEEL to a CPU-only wheel of your own to use that instead. The wheel made here
imitates the label of the official build: keep it private. Standard library only; needs gcc and
binutils, and pip or the venv module for the download.
"""

import argparse
import base64
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

VERSION = "2.13.0"
LABEL = f"{VERSION}+cpu"
TAG = "cp311-cp311-manylinux_2_28_x86_64"
SHA256 = "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7"
WHEEL = f"torch-{LABEL}-{TAG}.whl"
ROOM_BYTES = 3_000_000_000
"""Free disk that download, unpacked files and result need together."""

CUDA_LIBRARIES = frozenset(
    {"libtorch_cuda.so", "libtorch_cuda_linalg.so", "libtorch_nvshmem.so", "libcaffe2_nvrtc.so"}
)
UNUSED_FOLDERS = ("torch/include/", "torch/test/", "torch/bin/", "torch/share/")
NEEDED_FILES = frozenset({"torch/bin/torch_shm_manager"})
"""`import torch` insists on it."""

SYSTEM_LIBRARY = re.compile(r"(ld-linux|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+|gomp|numa)\.so)")
OWNERS = (("cuFile", "libcufile.so.0"), ("nccl", "libnccl.so.2"), ("pnccl", "libnccl.so.2"))
"""Symbols without a version: their prefix tells which library they belong to."""

NO_DEVICE = 100
"""CUDA's cudaErrorNoDevice."""

ANSWERS = {
    "cudaGetDeviceCount": f"int cudaGetDeviceCount(int *n) {{ *n = 0; return {NO_DEVICE}; }}",
    "cudaRuntimeGetVersion": "int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }",
    "cudaDriverGetVersion": "int cudaDriverGetVersion(int *v) { *v = 0; return 0; }",
    "cudaGetLastError": "int cudaGetLastError(void) { return 0; }",
    "cudaPeekAtLastError": "int cudaPeekAtLastError(void) { return 0; }",
    "cudaGetErrorName": 'const char *cudaGetErrorName(int e) { return "cudaErrorNoDevice"; }',
    "cudaGetErrorString": 'const char *cudaGetErrorString(int e) { return "no CUDA here"; }',
    "cuptiGetVersion": "int cuptiGetVersion(unsigned *v) { *v = 0; return 0; }",
    "cuptiGetResultString": (
        'int cuptiGetResultString(int e, const char **s) { *s = "no CUPTI here"; return 0; }'
    ),
    "_ZN3sdp28is_flash_attention_availableEv": (
        "int _ZN3sdp28is_flash_attention_availableEv(void) { return 0; }"
    ),
    "_ZN4c10d17nvshmem_extension20is_nvshmem_availableEv": (
        "int _ZN4c10d17nvshmem_extension20is_nvshmem_availableEv(void) { return 0; }"
    ),
    # libtorch_python stores a function through the reference that this returns while it loads.
    "_ZN4c10d15get_gil_checkerEv": (
        "static void *checker[4]; void *_ZN4c10d15get_gil_checkerEv(void) { return checker; }"
    ),
    # The default argument of a Python binding: an object whose virtual functions do nothing.
    "_ZN4c10d16ProcessGroupNCCL7OptionsC1Eb": (
        "static void nothing(void) {}\n"
        "static struct { void *table; const char *name; } options_type ="
        ' { _ZTVN10__cxxabiv117__class_type_infoE + 16, "N4stub7OptionsE" };\n'
        "static void *options[40] = { 0, &options_type, [2 ... 39] = nothing };\n"
        "void _ZN4c10d16ProcessGroupNCCL7OptionsC1Eb(void **o, int b)"
        " { o[0] = options + 2; o[1] = 0; }"
    ),
}
"""Functions whose answer matters, because loading or probing torch calls them."""

PREAMBLE = """\
#include <stdio.h>
#include <stdlib.h>
extern char _ZTVN10__cxxabiv117__class_type_infoE[];
static void refuse(const char *name) { fprintf(stderr, "no CUDA here: %s\\n", name); abort(); }
static void refuse_virtual(void) { refuse("a virtual function"); }
"""


class TorchWheelError(Exception):
    """The wheel cannot be had; the message says what to do."""


def main() -> None:
    """Print the path of a CPU-only wheel of torch, making it first unless it is cached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--cache", type=Path, required=True, metavar="DIR", help="where the wheel is kept"
    )
    directory = parser.parse_args().cache.absolute()
    try:
        print(supplied() or made(directory))
    except TorchWheelError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def supplied() -> Path | None:
    """The wheel that KVARN_TORCH_WHEEL names, if it is set.

    Raises:
        TorchWheelError: it names no wheel of this version's CPU build.
    """
    value = os.environ.get("KVARN_TORCH_WHEEL")
    if not value:
        return None
    wheel = Path(value).absolute()
    if not wheel.is_file() or not wheel.name.startswith(f"torch-{LABEL}-"):
        raise TorchWheelError(
            f"KVARN_TORCH_WHEEL is {value}, which is no file torch-{LABEL}-….whl: name one, "
            "or unset it to have the wheel made here."
        )
    return wheel


def made(directory: Path) -> Path:
    """The wheel in `directory`; made there first if need be, with its checksum beside it."""
    wheel = directory / WHEEL
    checksum = directory / f"{WHEEL}.sha256"
    if wheel.exists() and checksum.exists():
        return wheel
    require_tools()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TorchWheelError(
            f"{directory} cannot be made ({error.strerror}): give --cache (KVARN_CACHE for make) "
            "a folder that you may write."
        ) from None
    require_room(directory)
    with tempfile.TemporaryDirectory(prefix=".torch-", dir=directory) as folder:
        work = Path(folder)
        original = timed("Fetching torch (527 MB)", lambda: fetch(work / "download"))
        unfinished = work / WHEEL
        timed("Repacking torch for the CPU", lambda: repack(original, unfinished))
        checksum.write_text(f"{digest(unfinished)}  {WHEEL}\n")
        unfinished.rename(wheel)
    return wheel


def timed(title: str, work: Callable[[], Path]) -> Path:
    """Do `work` and say how long it took."""
    print(f"… {title}", file=sys.stderr, flush=True)
    started = time.monotonic()
    result = work()
    print(f"✓ {title}  {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return result


def require_tools() -> None:
    """Refuse on other machines than the wheel is for, and without a compiler."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise TorchWheelError(
            "Only x86-64 Linux wheels can be made here: set KVARN_TORCH_WHEEL to a CPU-only "
            f"wheel of torch {VERSION} for this machine."
        )
    missing = [tool for tool in ("gcc", "nm", "readelf", "strip") if not shutil.which(tool)]
    if missing:
        raise TorchWheelError(
            f"{', '.join(missing)} missing: install gcc and binutils, or set KVARN_TORCH_WHEEL to "
            f"a CPU-only wheel of torch {VERSION}."
        )


def require_room(directory: Path) -> None:
    """Refuse if the disk is too full for the work."""
    free = shutil.disk_usage(directory).free
    if free < ROOM_BYTES:
        raise TorchWheelError(
            f"Making torch's CPU wheel needs {ROOM_BYTES / 1e9:.0f} GB and {directory} has "
            f"{free / 1e9:.1f} GB free: free some, or set KVARN_CACHE to a folder on a larger disk."
        )


def fetch(directory: Path) -> Path:
    """Download the CUDA wheel with pip, which knows the machine's index, and check its hash."""
    directory.mkdir()
    requirements = directory / "requirements.txt"
    requirements.write_text(f"torch=={VERSION} --hash=sha256:{SHA256}\n")
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
    target = ["--python-version=3.11", "--abi=cp311", "--platform=manylinux_2_28_x86_64"]
    files = [f"--requirement={requirements}", f"--dest={directory}"]
    command = [*pip(directory / "venv"), "download", *options, *target, *files]
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        raise TorchWheelError(
            f"pip could not fetch torch {VERSION}: configure pip for an index that this machine "
            f"reaches, or set KVARN_TORCH_WHEEL to a CPU-only wheel of torch {VERSION}."
        )
    return next(directory.glob("torch-*.whl"))


def pip(venv: Path) -> list[str]:
    """The command of this interpreter's pip, or of one in a `venv` made for it."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, stdout=sys.stderr)
    return [str(venv / "bin" / "python"), "-m", "pip"]


def repack(original: Path, target: Path) -> Path:
    """Write the CPU-only wheel `target` from the CUDA wheel `original`."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        tree = Path(folder)
        foreign = unpack(original, tree)
        libraries = tree / "torch" / "lib"
        for name, absent in missing_symbols(tree, foreign).items():
            write_stub(libraries / name, absent)
        for library in libraries.glob("lib*.so*"):
            subprocess.run(["strip", "--strip-all", library], check=True)
        relabel(tree)
        pack(tree, target)
    return target


def unpack(wheel: Path, tree: Path) -> set[str]:
    """Unpack all but CUDA and the unused; return the symbols that the CUDA libraries defined."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory(dir=tree.parent) as cuda:
        foreign: set[str] = set()
        for name in archive.namelist():
            if Path(name).name in CUDA_LIBRARIES:
                foreign |= symbols(Path(archive.extract(name, cuda)), "--defined-only").keys()
            elif name in NEEDED_FILES or not name.startswith(UNUSED_FOLDERS):
                archive.extract(name, tree)
    for name in NEEDED_FILES:
        (tree / name).chmod(0o755)
    return foreign


def missing_symbols(tree: Path, foreign: set[str]) -> dict[str, dict[str, str]]:
    """What has to be stubbed: library → symbol → version of the symbol, "" for none.

    Args:
        tree: the unpacked wheel without CUDA.
        foreign: symbols that torch's own CUDA libraries used to define.
    """
    kept = [*(tree / "torch" / "lib").glob("*.so*"), *(tree / "torch").glob("_C*.so")]
    present = {path.name for path in kept}
    wanted = {name for path in kept for name in needed_libraries(path)}
    absent = {library for library in wanted - present if not SYSTEM_LIBRARY.match(library)}
    stubs: dict[str, dict[str, str]] = {library: {} for library in absent}
    defined = {name for path in kept for name in symbols(path, "--defined-only")}
    for path in kept:
        for name, version in symbols(path, "--undefined-only").items():
            owner = version if version in stubs else _owner(name, foreign)
            if name not in defined and owner in stubs and (owner == version or not version):
                stubs[owner][name] = version
    return stubs


def _owner(name: str, foreign: set[str]) -> str:
    if name in foreign:
        return "libtorch_cuda.so"
    return next((library for prefix, library in OWNERS if name.startswith(prefix)), "")


def needed_libraries(path: Path) -> list[str]:
    """The shared libraries that the loader looks for when it loads `path`."""
    return re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "--dynamic", path))


def symbols(path: Path, which: str) -> dict[str, str]:
    """Dynamic symbols of a shared object → their version, "" for none. Weak ones are left out."""
    found = {}
    for line in output("nm", "--dynamic", which, path).splitlines():
        kind, name = line.split()[-2:]
        if kind not in "wv":
            bare, _, version = name.partition("@")
            found[bare] = version.removeprefix("@")
    return found


def write_stub(library: Path, symbols: dict[str, str]) -> None:
    """Compile a shared object that defines `symbols` and nothing else."""
    source, versions = library.with_suffix(".c"), library.with_suffix(".map")
    source.write_text(PREAMBLE + "\n".join(stub_code(name) for name in sorted(symbols)) + "\n")
    options = ["-shared", "-fPIC", "-O1", "-w", f"-Wl,-soname,{library.name}"]
    version = next(iter(symbols.values()), "")
    if version:
        versions.write_text(f"{version} {{ global: *; }};\n")
        options.append(f"-Wl,--version-script={versions}")
    subprocess.run(["gcc", *options, "-o", library, source, "-lstdc++"], check=True)
    source.unlink()
    versions.unlink(missing_ok=True)


def stub_code(name: str) -> str:
    """C that defines one (mangled) symbol."""
    if name in ANSWERS:
        return ANSWERS[name]
    if name.startswith("_ZTI"):
        base = "_ZTVN10__cxxabiv117__class_type_infoE + 16"
        return f'struct {{ void *table; const char *name; }} {name} = {{ {base}, "{name[4:]}" }};'
    if name.startswith("_ZTV"):
        return f"void *{name}[64] = {{ 0, 0, [2 ... 63] = refuse_virtual }};"
    if name.startswith("_Z"):
        return f'void {name}(void) {{ refuse("{name}"); }}'
    return f"int {name}(void) {{ return {NO_DEVICE}; }}"


def relabel(tree: Path) -> None:
    """Call the wheel a CPU build that needs no CUDA packages."""
    metadata = tree / f"torch-{VERSION}.dist-info" / "METADATA"
    rewrite(metadata, r"^Version: .*$", f"Version: {LABEL}")
    rewrite(metadata, r"^Requires-Dist: (cuda-|nvidia-|triton).*\n", "")
    rewrite(tree / "torch" / "version.py", r"__version__ = '.*'", f"__version__ = '{LABEL}'")
    rewrite(tree / "torch" / "version.py", r"^cuda: .*$", "cuda: Optional[str] = None")
    (metadata.parent / "RECORD").unlink()
    metadata.parent.rename(tree / f"torch-{LABEL}.dist-info")


def rewrite(path: Path, pattern: str, replacement: str) -> None:
    """Replace `pattern` in a text file; it must occur."""
    text, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
    if not count:
        raise TorchWheelError(f"{path.name} of this wheel has no {pattern}: it is not {VERSION}.")
    path.write_text(text)


def pack(tree: Path, target: Path) -> None:
    """Write the wheel with its RECORD; equal trees give equal bytes."""
    record = f"torch-{LABEL}.dist-info/RECORD"
    lines = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(p for p in tree.rglob("*") if p.is_file()):
            name = path.relative_to(tree).as_posix()
            content = path.read_bytes()
            sha = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            lines.append(f"{name},sha256={sha},{len(content)}")
            archive.writestr(entry(name, executable=os.access(path, os.X_OK)), content)
        archive.writestr(entry(record), "\n".join([*lines, f"{record},,\n"]))


def entry(name: str, *, executable: bool = False) -> zipfile.ZipInfo:
    """An archive entry without a date of its own."""
    info = zipfile.ZipInfo(name)
    info.external_attr = (0o100755 if executable else 0o100644) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def output(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
