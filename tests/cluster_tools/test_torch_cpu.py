"""A wheel that needs CUDA becomes one that does not: shown on a small wheel of the same make."""

import base64
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "images" / "serving-cpu" / "torch_cpu.py"


def compile_library(path: Path, code: str, *needs: Path) -> Path:
    source = path.with_suffix(".c")
    source.write_text(code)
    links = [option for need in needs for option in (f"-L{need.parent}", f"-l:{need.name}")]
    # As NVIDIA does: symbols bear the library's name as their version.
    versions = path.with_suffix(".map")
    versions.write_text(f"{path.name} {{ global: cuda*; }};\n")
    naming = [f"-Wl,-soname,{path.name}", f"-Wl,--version-script={versions}"]
    command = ["gcc", "-shared", "-fPIC", *naming, "-o", path, source, *links]
    subprocess.run(command, check=True)
    return path


@pytest.fixture
def original(tmp_path: Path, torch_cpu: ModuleType) -> Path:
    """A wheel whose CPU library calls its CUDA library and CUDA's runtime from outside."""
    runtime = compile_library(
        tmp_path / "libcudart.so.13", "int cudaGetDeviceCount(int *n) { *n = 8; return 0; }"
    )
    cuda = compile_library(
        tmp_path / "libtorch_cuda.so", "int _ZN2at4cudaEv(void) { return 1; }", runtime
    )
    cpu = compile_library(
        tmp_path / "libtorch_cpu.so",
        "int cudaGetDeviceCount(int *); int _ZN2at4cudaEv(void);"
        "int on_gpu(void) { return _ZN2at4cudaEv(); }"
        "int devices(void) { int n = -1; int e = cudaGetDeviceCount(&n); return 1000 * n + e; }",
        *(cuda, runtime),
    )
    info = f"torch-{torch_cpu.VERSION}.dist-info"
    wheel = tmp_path / f"torch-{torch_cpu.VERSION}-{torch_cpu.TAG}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(cpu, "torch/lib/libtorch_cpu.so")
        archive.write(cuda, "torch/lib/libtorch_cuda.so")
        archive.writestr("torch/include/huge.h", "")
        archive.writestr("torch/bin/torch_shm_manager", "")
        archive.writestr(
            "torch/version.py",
            f"__version__ = '{torch_cpu.VERSION}+cu130'\ncuda: Optional[str] = '13.0'\n",
        )
        archive.writestr(
            f"{info}/METADATA",
            f"Name: torch\nVersion: {torch_cpu.VERSION}\n"
            "Requires-Dist: sympy\nRequires-Dist: nvidia-cudnn-cu13; x\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def repacked(original: Path, tmp_path: Path, torch_cpu: ModuleType) -> Path:
    """The wheel without CUDA."""
    out = tmp_path / "out"
    out.mkdir()
    return Path(torch_cpu.repack(original, out / torch_cpu.WHEEL))


def test_the_cpu_library_loads_and_finds_no_device(repacked: Path, tmp_path: Path) -> None:
    """1000 × devices + error code 100, in a process of its own that has no CUDA anywhere."""
    with zipfile.ZipFile(repacked) as archive:
        archive.extractall(tmp_path / "installed")
    library = tmp_path / "installed/torch/lib/libtorch_cpu.so"
    code = f"import ctypes; print(ctypes.CDLL({str(library)!r}).devices())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"LD_LIBRARY_PATH": str(library.parent)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "100\n"


def test_calling_cuda_aborts_by_name(repacked: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(repacked) as archive:
        archive.extractall(tmp_path / "installed")
    library = tmp_path / "installed/torch/lib/libtorch_cpu.so"
    code = f"import ctypes; ctypes.CDLL({str(library)!r}).on_gpu()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"LD_LIBRARY_PATH": str(library.parent)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode < 0
    assert "no CUDA here: _ZN2at4cudaEv" in done.stderr


def test_it_asks_for_no_cuda_package(repacked: Path, torch_cpu: ModuleType) -> None:
    with zipfile.ZipFile(repacked) as archive:
        metadata = archive.read(f"torch-{torch_cpu.LABEL}.dist-info/METADATA").decode()
    assert metadata == f"Name: torch\nVersion: {torch_cpu.LABEL}\nRequires-Dist: sympy\n"


def test_the_record_has_the_hash_of_every_file(repacked: Path, torch_cpu: ModuleType) -> None:
    record = f"torch-{torch_cpu.LABEL}.dist-info/RECORD"
    with zipfile.ZipFile(repacked) as archive:
        lines = archive.read(record).decode().splitlines()
        for name, wanted, size in (line.split(",") for line in lines if not line.endswith(",,")):
            content = archive.read(name)
            sha = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (wanted, int(size)) == (f"sha256={sha}", len(content))
        assert len(lines) == len(archive.namelist())


def test_equal_input_gives_equal_bytes(
    original: Path, repacked: Path, tmp_path: Path, torch_cpu: ModuleType
) -> None:
    again = torch_cpu.repack(original, tmp_path / "again.whl")
    assert again.read_bytes() == repacked.read_bytes()


def run(cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", SCRIPT, "--cache", cache],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_wheel_of_ones_own_is_used(tmp_path: Path, torch_cpu: ModuleType) -> None:
    own = tmp_path / torch_cpu.WHEEL
    own.touch()
    assert run(tmp_path / "cache", KVARN_TORCH_WHEEL=str(own)).stdout == f"{own}\n"


def test_another_wheel_of_ones_own_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, KVARN_TORCH_WHEEL=str(tmp_path / "torch-1.0-x.whl"))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_without_a_compiler_it_says_what_to_install(tmp_path: Path) -> None:
    done = run(tmp_path, PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "install gcc and binutils, or set KVARN_TORCH_WHEEL" in done.stderr


def test_an_index_out_of_reach_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, PATH="/usr/bin:/bin", PIP_NO_INDEX="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "configure pip for an index that this machine reaches" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(tmp_path / "file" / "cache", PATH="/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (2, "")
    assert "a folder that you may write" in done.stderr
