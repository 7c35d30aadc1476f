"""A real API server without a cluster: etcd and kube-apiserver as ordinary processes, for tests."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hack import cache
from hack.cluster import build, components, pki, probe
from hack.errors import Refusal

START_SECONDS = 60.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05


@contextmanager
def api_server(directory: Path, *, port: int | None = None) -> Iterator[Path]:
    """Run etcd and kube-apiserver until the block ends; needs no root and no namespaces.

    There are no controllers, no scheduler and no nodes: nothing is garbage collected, deleted
    namespaces stay in `Terminating`, and pods are admitted without a service account.

    Args:
        directory: gets keys, data and logs; the caller removes it.
        port: of the API server on 127.0.0.1; a free one by default.

    Yields:
        The path of an administrator's kubeconfig.

    Raises:
        Refusal: the programs cannot be built, the port is taken, or a component ends early.
    """
    kube = build.build(build.KUBE, cache.default()) / "kube"
    endpoints = _endpoints(port)
    keys, kubeconfig = directory / "pki", directory / "kubeconfig"
    pki.create(keys, node="none", addresses=["127.0.0.1", components.API_SERVICE_IP])
    pki.write_kubeconfig(kubeconfig, pki=keys, user="admin", server=endpoints.api_url)
    etcd = components.etcd(kube, data=directory / "etcd", endpoints=endpoints)
    with ExitStack() as running:
        running.enter_context(_process(etcd, directory / "etcd.log"))
        server = running.enter_context(
            _process(_apiserver(kube, keys, endpoints), directory / "kube-apiserver.log")
        )
        _wait_until_ready(endpoints, keys, server, directory / "kube-apiserver.log")
        yield kubeconfig


def port_is_taken(port: int) -> bool:
    """Whether something listens on 127.0.0.1:`port` already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _apiserver(kube: Path, keys: Path, endpoints: components.Endpoints) -> list[str]:
    return [
        *components.apiserver(kube, pki=keys, endpoints=endpoints),
        "--bind-address=127.0.0.1",
        # Needs a controller that makes service accounts, which is not here.
        "--disable-admission-plugins=ServiceAccount",
        "--endpoint-reconciler-type=none",
    ]


def _endpoints(port: int | None) -> components.Endpoints:
    if port is not None and port_is_taken(port):
        raise Refusal(f"Port {port} is taken on 127.0.0.1: give another one with --port.")
    etcd, peer, free = free_ports(3)
    return components.Endpoints(etcd=etcd, etcd_peer=peer, api=port or free)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    # A test run that is killed must not leave servers behind.
    command = ["setpriv", "--pdeathsig", "KILL", *command]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(
    endpoints: components.Endpoints, keys: Path, server: subprocess.Popen[bytes], log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not probe.is_ready(endpoints.api_url, keys):
        if server.poll() is not None or time.monotonic() > deadline:
            raise Refusal(f"kube-apiserver did not start: {log} says why.")
        time.sleep(POLL_SECONDS)
