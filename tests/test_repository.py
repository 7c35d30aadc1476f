"""Rules of the tree that no linter knows."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sharing import ALONE, group_of

ROOT = Path(__file__).parent.parent


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    return [ROOT / name for name in listing.stdout.decode().split("\0") if name]


def test_the_operator_folder_does_not_shadow_the_standard_library() -> None:
    """Any interpreter started here would import our folder instead of `operator` and die."""
    assert not (ROOT / "operator/__init__.py").exists()


def test_the_standard_library_operator_imports_from_the_root_folder() -> None:
    code = "import operator; print(operator.add(1, 2))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert out.stdout == b"3\n"


def test_no_file_names_a_registry_host() -> None:
    """Mirrors and air-gapped sites install by package name; a host name would pin them."""
    names = ("pypi", "pythonhosted", "registry.npmjs", "proxy.golang")
    hosts = [f"{name}.org" for name in names]
    for path in tracked_files():
        text = path.read_bytes() if path.is_file() else b""
        assert not [host for host in hosts if host.encode() in text], path


LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_a_hash(lock: Path) -> None:
    entries = lock.read_text().replace("\\\n", " ").splitlines()
    pinned = [line for line in entries if "==" in line and not line.startswith("#")]
    assert [line for line in pinned if "sha256:" not in line and "sys_platform" not in line] == []


def test_tests_of_the_cluster_have_the_machine_to_themselves() -> None:
    for path in tracked_files():
        if path.match("tests/**/test_*.py") and "mark.cluster" in path.read_text():
            assert group_of(path.relative_to(ROOT).as_posix()) == ALONE, path
