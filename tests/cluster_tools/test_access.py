"""Which cluster is used, and how images get there."""

from pathlib import Path

import pytest

from hack.cache import Cache
from hack.cluster import access
from hack.errors import Refusal


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH: what is not put there is not installed."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def kubeconfig(folder: Path, context: str) -> Path:
    path = folder / "their-kubeconfig"
    path.write_text(f"current-context: {context}\n")
    return path


def test_the_local_cluster_without_anything_else(cache: Cache, programs: Path) -> None:
    assert isinstance(access.find(cache, {}), access.LocalCluster)


def test_our_own_kubeconfig_means_the_local_cluster(cache: Cache, programs: Path) -> None:
    named = {"KUBECONFIG": str(cache.kubeconfig)}
    assert isinstance(access.find(cache, named), access.LocalCluster)


def test_docker_without_a_daemon_is_not_at_hand(cache: Cache, programs: Path) -> None:
    install(programs, "kind", "exit 0")
    install(programs, "docker", "exit 1")
    assert isinstance(access.find(cache, {}), access.LocalCluster)


def test_kind_is_used_where_it_can_work(cache: Cache, programs: Path) -> None:
    install(programs, "kind", "exit 0")
    install(programs, "docker", "exit 0")
    assert isinstance(access.find(cache, {}), access.KindCluster)


def test_kind_loads_archives_into_the_named_cluster(
    cache: Cache, programs: Path, tmp_path: Path
) -> None:
    install(programs, "kind", f'echo "$@" >> {tmp_path}/called')
    named = kubeconfig(tmp_path, "kind-staging")
    access.find(cache, {"KUBECONFIG": str(named)}).load([tmp_path / "x.tar"])
    asked = (tmp_path / "called").read_text()
    assert asked == f"load image-archive {tmp_path}/x.tar --name staging\n"


def test_a_failing_kind_is_told_with_its_own_words(
    cache: Cache, programs: Path, tmp_path: Path
) -> None:
    install(programs, "kind", "echo no nodes found >&2; exit 1")
    there = access.find(cache, {"KUBECONFIG": str(kubeconfig(tmp_path, "kind-staging"))})
    with pytest.raises(Refusal, match=r"failed \(no nodes found\)"):
        there.load([tmp_path / "x.tar"])


def test_other_clusters_pull_from_the_registry(
    cache: Cache, programs: Path, tmp_path: Path
) -> None:
    named = {
        "KUBECONFIG": str(kubeconfig(tmp_path, "production")),
        "KVARN_IMAGE_REGISTRY": "registry.example/team/",
    }
    there = access.find(cache, named)
    assert there.image("localhost/kvarn-operator:dev") == "registry.example/team/kvarn-operator:dev"


def test_other_clusters_need_a_registry(cache: Cache, programs: Path, tmp_path: Path) -> None:
    named = {"KUBECONFIG": str(kubeconfig(tmp_path, "production"))}
    with pytest.raises(Refusal, match=r"production .* set KVARN_IMAGE_REGISTRY"):
        access.find(cache, named)


@pytest.mark.parametrize("text", [None, "just text", "{", ""])
def test_a_kubeconfig_that_is_none(
    cache: Cache, programs: Path, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "kubeconfig"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Refusal, match="is no kubeconfig: correct it, or unset it"):
        access.find(cache, {"KUBECONFIG": str(path)})
