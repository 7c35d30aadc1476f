"""What a machine lacks is told in one sentence with the remedy."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hack.cache import Cache
from hack.cluster import preflight
from hack.cluster.__main__ import main
from hack.errors import Refusal


def test_without_root() -> None:
    with pytest.raises(Refusal, match=r"The local cluster needs root: .* sudo"):
        preflight.require_root(1000, what="the local cluster")


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file" / "cache")
    with pytest.raises(Refusal, match="set KVARN_CACHE to a folder"), cache.locked("cluster"):
        pass


def test_on_another_machine() -> None:
    with pytest.raises(Refusal, match="arm64 Darwin: set KUBECONFIG"):
        preflight.require_linux("Darwin", "arm64")


def test_without_overlayfs() -> None:
    with pytest.raises(Refusal, match="modprobe overlay"):
        preflight.require_overlay("nodev\tsysfs\n\text4\n")


def test_with_overlayfs() -> None:
    preflight.require_overlay("nodev\tsysfs\nnodev\toverlay\n")


def test_a_taken_port_is_named_with_the_way_to_its_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Refusal, match=rf"Port {port} .* is taken: .*--port"):
            preflight.require_free_port(port)


def test_a_refusal_ends_the_program_with_status_2(tmp_path: Path) -> None:
    """No traceback: one line on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "hack.cluster", "load", "x.tar"],
        env={"KVARN_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("verb", ["load x.tar", "run true", "kubectl get nodes", "fake-nodes 1"])
def test_verbs_that_need_a_cluster_say_how_to_start_one(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVARN_CACHE", str(tmp_path))
    told = CliRunner().invoke(main, verb.split())
    assert told.exit_code == 2
    assert "hack.cluster up" in told.output or "does not exist" in told.output


def test_status_of_a_cluster_that_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVARN_CACHE", str(tmp_path))
    told = CliRunner().invoke(main, ["status"])
    assert (told.exit_code, told.output.splitlines()[0]) == (0, "The cluster is down.")


def test_down_twice_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVARN_CACHE", str(tmp_path))
    assert CliRunner().invoke(main, ["down"]).exit_code == 0
