"""Image archives: what is in them, what is none, and what of them is passed on."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from hack.cluster.archive import Archive
from hack.errors import Refusal

LAYERS = {"base.tar": b"base" * 1000, "top.tar": b"top"}


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def write(path: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An archive of two layers, as `docker save` lays it out."""
    config = {"rootfs": {"diff_ids": [digest(layer) for layer in LAYERS.values()]}}
    manifest = [{"Config": "c.json", "RepoTags": ["localhost/x:dev"], "Layers": list(LAYERS)}]
    described = {"c.json": json.dumps(config), "manifest.json": json.dumps(manifest)}
    members = {name: text.encode() for name, text in described.items()}
    return Archive.read(write(tmp_path / "x.tar", LAYERS | members))


def layout(archive: Archive, held: set[str]) -> dict[str, bytes]:
    """Name → content of what is passed on."""
    stream = io.BytesIO()
    archive.write_layout(stream, "localhost/y:dev", held)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_every_blob_lies_under_its_own_digest(archive: Archive) -> None:
    blobs = {n: content for n, content in layout(archive, set()).items() if n.startswith("blobs/")}
    assert len(blobs) == 4
    for name, content in blobs.items():
        assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def test_the_index_names_the_manifest_and_the_manifest_the_layers(archive: Archive) -> None:
    passed = layout(archive, set())
    (entry,) = json.loads(passed["index.json"])["manifests"]
    assert entry["annotations"] == {"io.containerd.image.name": "localhost/y:dev"}
    assert entry["digest"] == archive.digest
    manifest = json.loads(passed[f"blobs/{entry['digest'].replace(':', '/')}"])
    assert [layer["digest"] for layer in manifest["layers"]] == list(map(digest, LAYERS.values()))


def test_a_layer_that_is_held_is_not_passed_on(archive: Archive) -> None:
    base, top = (f"blobs/{digest(layer).replace(':', '/')}" for layer in LAYERS.values())
    passed = layout(archive, {digest(LAYERS["base.tar"])})
    assert base not in passed
    assert passed[top] == LAYERS["top.tar"]


def test_a_missing_file_is_told_with_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"does not exist: .*hack.images build"):
        Archive.read(tmp_path / "absent.tar")


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(Refusal, match="is no image archive"):
        Archive.read(path)


@pytest.mark.parametrize("manifest", [b"{}", b"[]", b"half a mani", b'[{"Config": "absent.json"}]'])
def test_an_archive_with_a_broken_manifest_is_refused(tmp_path: Path, manifest: bytes) -> None:
    with pytest.raises(Refusal, match="is no image archive"):
        Archive.read(write(tmp_path / "x.tar", {"manifest.json": manifest}))
