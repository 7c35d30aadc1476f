"""The API server alone: real, quick, and gone without a trace."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hack import cache
from hack.cluster import build
from hack.cluster.apiserver import api_server
from hack.errors import Refusal

pytestmark = pytest.mark.apiserver
Until = Callable[[Callable[[], object]], None]


def kubectl(kubeconfig: Path, *arguments: str) -> str:
    kube = build.build(build.KUBE, cache.default()) / "kube"
    command = [kube, "kubectl", f"--kubeconfig={kubeconfig}", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def processes(directory: Path) -> list[str]:
    """Commands of running processes that name `directory`."""
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            commands.append(path.read_text())
        except OSError:
            continue
    return [command for command in commands if str(directory) in command]


def test_it_serves_the_pinned_version(tmp_path: Path) -> None:
    with api_server(tmp_path) as kubeconfig:
        told = json.loads(kubectl(kubeconfig, "version", "-o", "json"))
    assert told["serverVersion"]["gitVersion"] == build.kubernetes_version()


def test_no_process_survives_it(tmp_path: Path) -> None:
    with api_server(tmp_path):
        assert len(processes(tmp_path)) == 2
    assert processes(tmp_path) == []


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Refusal, match=f"Port {port} is taken"), api_server(tmp_path, port=port):
            pass
    assert processes(tmp_path) == []


def test_the_command_runs_until_it_is_interrupted(tmp_path: Path, until: Until) -> None:
    command = [sys.executable, "-m", "hack.cluster", "apiserver", "--state", tmp_path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        assert server.stderr.readline() == f"export KUBECONFIG={tmp_path}/kubeconfig\n"
        assert "default" in kubectl(tmp_path / "kubeconfig", "get", "namespaces")
        server.send_signal(signal.SIGINT)
    assert server.returncode == 0
    until(lambda: processes(tmp_path) == [])


def test_killing_the_command_takes_the_servers_with_it(tmp_path: Path, until: Until) -> None:
    command = [sys.executable, "-m", "hack.cluster", "apiserver", "--state", tmp_path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        server.stderr.readline()
        server.kill()
    until(lambda: processes(tmp_path) == [])


def test_pod_security_is_enforced_by_label(tmp_path: Path) -> None:
    with api_server(tmp_path) as kubeconfig:
        kubectl(kubeconfig, "create", "namespace", "strict")
        kubectl(
            *(kubeconfig, "label", "namespace", "strict"),
            "pod-security.kubernetes.io/enforce=restricted",
        )
        with pytest.raises(subprocess.CalledProcessError) as refused:
            kubectl(kubeconfig, "-n", "strict", "run", "p", "--image=x", "--privileged")
    assert 'violates PodSecurity "restricted:latest"' in refused.value.stderr
