"""Brings the cluster up and takes it down."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from hack.cluster import build, configuration, containerd, host, layout, preflight
from hack.cluster.build import Programs
from hack.cluster.layout import Layout
from hack.images import programs as images
from hack.progress import console, step

START_SECONDS = 180.0
GROUP_SECONDS = 10.0
ROOT = Path(__file__).parents[2]


def up(cluster: Layout, *, port: int = layout.DEFAULT_PORT) -> None:
    """Start the cluster and return when pods can be scheduled; nothing to do if it is healthy.

    Raises:
        Refusal: something that a person must put right; nothing is left running then.
    """
    with cluster.cache.locked("cluster"):
        if not is_healthy(cluster):
            _remove(cluster)
            preflight.check(cluster, port=port)
            _up(cluster, port=port)
    how = f"export KUBECONFIG={cluster.cache.kubeconfig}"
    console.print(f"The cluster is up: {how}", soft_wrap=True)


def down(cluster: Layout) -> bool:
    """Stop the cluster and remove its state; images stay cached. Return whether there was one."""
    with cluster.cache.locked("cluster"):
        return _remove(cluster)


def is_healthy(cluster: Layout) -> bool:
    """Whether the node runs, its API server is ready and its kubelet says that it is well."""
    running = host.node_pid(cluster) is not None
    return running and host.api_ready(cluster) and host.node_ready(cluster)


def _remove(cluster: Layout) -> bool:
    if not cluster.state.exists():
        return False
    with step("Taking the cluster down"):
        _end(cluster)
        shutil.rmtree(cluster.state)
    return True


def _up(cluster: Layout, *, port: int) -> None:
    programs = build.programs(cluster.cache)
    pause_archive = images.archive(images.PAUSE, cluster.cache, programs.pause.parent)
    try:
        _start(cluster, programs, port=port)
        _complete(cluster, pause_archive)
    except BaseException:
        _end(cluster)
        raise
    build.prune(cluster.cache)


def _start(cluster: Layout, programs: Programs, *, port: int) -> None:
    with step("Certificates and configuration"):
        cluster.logs.mkdir(parents=True)
        stages = subprocess.run(
            [programs.kube, "kwok-stages"], check=True, capture_output=True, text=True
        ).stdout
        configuration.write(cluster, port=port, stages=stages)
    for folder in (layout.CNI_FOLDER, layout.KUBELET_FOLDER, cluster.kubelet):
        folder.mkdir(exist_ok=True)
    arguments = [str(cluster.cache.root), str(port), str(programs.kube), str(programs.coredns)]
    _spawn(cluster, [sys.executable, "-m", "hack.cluster.node", *arguments])


def _spawn(cluster: Layout, node: list[str]) -> None:
    """Start the node in new namespaces; it outlives this program."""
    namespaces = ["--pid", "--mount", "--ipc", "--uts", "--fork", "--kill-child=KILL"]
    log = str(cluster.logs / "node.log")
    parent = os.posix_spawnp(
        "unshare",
        ["unshare", *namespaces, "--mount-proc", *node],
        {**os.environ, "PYTHONPATH": str(ROOT)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    children = Path(f"/proc/{parent}/task/{parent}/children")
    while os.waitpid(parent, os.WNOHANG) == (0, 0) and not children.read_text():
        time.sleep(0.01)
    # If it ended at once there is none: whoever waits for the node finds that it ended.
    if children.exists() and (node_pid := children.read_text()):
        host.record_node(cluster, int(node_pid))


def _complete(cluster: Layout, pause_archive: Path) -> None:
    def wait(what: str, holds: host.Condition) -> None:
        with step(what):
            host.wait(what, holds, cluster=cluster, seconds=START_SECONDS)

    wait("containerd", lambda: containerd.answers(cluster))
    containerd.load(cluster, [pause_archive])
    containerd.prune(cluster)
    wait("API server", lambda: host.api_ready(cluster))
    with step("Cluster DNS and roles"):
        addons = cluster.configuration / "addons.yaml"
        subprocess.run(
            host.kubectl(cluster, "apply", "-f", addons), check=True, stdout=subprocess.DEVNULL
        )
    wait("node Ready", lambda: host.node_ready(cluster))
    wait("service accounts", lambda: bool(host.ask(cluster, "get", "serviceaccount", "default")))


def _end(cluster: Layout) -> None:
    pid = host.node_pid(cluster)
    if pid is not None:
        host.kill_node(pid)
    _remove_cgroups(cluster)


def _remove_cgroups(cluster: Layout) -> None:
    deadline = time.monotonic() + GROUP_SECONDS
    for root in layout.cgroup_roots():
        for folder, _, _ in os.walk(root / cluster.cgroup, topdown=False):
            while not _removed(Path(folder)) and time.monotonic() < deadline:
                time.sleep(0.02)


def _removed(group: Path) -> bool:
    # The kernel takes a moment to let go of the processes that were just killed.
    try:
        group.rmdir()
    except OSError:
        return False
    return True
