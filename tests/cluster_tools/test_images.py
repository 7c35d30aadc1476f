"""Images are built when what goes in changed, and only then."""

import os
import tarfile
from pathlib import Path

import pytest

from hack import cache as caches
from hack.cache import Cache
from hack.cluster.archive import Archive
from hack.errors import Refusal
from hack.images import build as images
from hack.images import buildah
from hack.images.build import Image
from hack.progress import Step

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="building images needs root")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with everything that an image is made of."""
    for name in images.SOURCES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("first")
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    monkeypatch.setattr(images, "ROOT", tmp_path)
    return tmp_path


IMAGE = Image(title="test", dockerfile="Dockerfile")


@pytest.mark.parametrize("name", ["Dockerfile", "pyproject.toml", "kvarn"])
def test_a_changed_input_is_noticed(tree: Path, name: str) -> None:
    before = images.inputs(IMAGE, None)
    (tree / name).write_text("second")
    assert images.inputs(IMAGE, None) != before


def test_a_renamed_module_is_noticed(tree: Path) -> None:
    (tree / "kvarn").unlink()
    (tree / "kvarn").mkdir()
    (tree / "kvarn/a.py").write_text("same")
    before = images.inputs(IMAGE, None)
    (tree / "kvarn/a.py").rename(tree / "kvarn/b.py")
    assert images.inputs(IMAGE, None) != before


def test_bytecode_is_no_input(tree: Path) -> None:
    (tree / "kvarn").unlink()
    (tree / "kvarn/__pycache__").mkdir(parents=True)
    before = images.inputs(IMAGE, None)
    (tree / "kvarn/__pycache__/x.pyc").write_text("x")
    assert images.inputs(IMAGE, None) == before


def test_another_base_is_another_image(tree: Path) -> None:
    assert images.inputs(IMAGE, "python:3.11-slim-bookworm") != images.inputs(IMAGE, None)


@needs_root
def test_an_unreachable_base_is_one_sentence_and_leaves_nothing(
    cache: Cache, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM localhost/absent:1\n")
    absent = buildah.Build(
        name="localhost/x:dev", dockerfile=tmp_path / "Dockerfile", context=tmp_path
    )
    log = tmp_path / "build.log"
    with pytest.raises(Refusal, match=rf"Building localhost/x:dev failed \(.*{log} .*--base"):
        buildah.build(cache, absent, log=log, current=Step("test"))
    assert str(cache.buildah) not in Path("/proc/mounts").read_text()


@needs_root
def test_a_failing_step_is_told_by_its_own_last_words(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY absent-file /\n")
    broken = buildah.Build(
        name="localhost/x:dev", dockerfile=tmp_path / "Dockerfile", context=tmp_path
    )
    with pytest.raises(Refusal, match="absent-file"):
        buildah.build(cache, broken, log=tmp_path / "log", current=Step("test"))


@pytest.mark.cluster
@needs_root
def test_nothing_changed_builds_nothing() -> None:
    image = images.IMAGES["operator"]
    archive = images.build(image, caches.default())
    before = archive.stat().st_mtime_ns
    assert images.build(image, caches.default()).stat().st_mtime_ns == before


@pytest.mark.cluster
@needs_root
def test_the_operator_image_is_small_and_has_no_torch() -> None:
    archive = images.build(images.IMAGES["operator"], caches.default())
    assert archive.stat().st_size < 300e6
    layers = Archive.read(archive).layers
    with tarfile.open(archive) as tar:
        for layer in layers:
            with tarfile.open(fileobj=tar.extractfile(layer.member)) as files:
                assert not [name for name in files.getnames() if "/torch/" in name]
