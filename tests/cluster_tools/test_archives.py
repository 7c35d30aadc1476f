"""Image archives: what is in them, and what is none."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from hack.cluster.containerd import Archive
from hack.errors import Refusal


def write(path: Path, manifest: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("manifest.json")
        info.size = len(manifest)
        tar.addfile(info, io.BytesIO(manifest))
    return path


def test_names_and_configuration_are_read(tmp_path: Path) -> None:
    manifest = json.dumps([{"Config": "abc.json", "RepoTags": ["localhost/x:dev"], "Layers": []}])
    archive = Archive.read(write(tmp_path / "x.tar", manifest.encode()))
    assert (archive.config, archive.names) == ("abc", ("localhost/x:dev",))


def test_a_missing_file_is_told_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"does not exist: .*hack.images build"):
        Archive.read(tmp_path / "absent.tar")


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(Refusal, match="is no image archive"):
        Archive.read(path)


@pytest.mark.parametrize("manifest", [b"{}", b"[]", b"half a mani"])
def test_an_archive_with_a_broken_manifest_is_refused(tmp_path: Path, manifest: bytes) -> None:
    with pytest.raises(Refusal, match="is no image archive"):
        Archive.read(write(tmp_path / "x.tar", manifest))
