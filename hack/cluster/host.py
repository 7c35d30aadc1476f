"""The running node as the host sees it: its process 1, its namespaces, its kubectl."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from hack.cluster import build, probe
from hack.cluster.layout import NODE, Layout
from hack.errors import Refusal

Condition = Callable[[], bool]
POLL_SECONDS = 0.1


def record_node(cluster: Layout, pid: int) -> None:
    """Note which process is the node's process 1, for `node_pid`."""
    cluster.node_pid.write_text(f"{pid} {_start_ticks(pid)}")


def node_pid(cluster: Layout) -> int | None:
    """Process id of the node's process 1, or None if it does not run."""
    try:
        pid, started = cluster.node_pid.read_text().split()
        # A process id may have been given to another program since.
        return int(pid) if _start_ticks(int(pid)) == int(started) else None
    except (OSError, ValueError):
        return None


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it has ended.

    Unlike its command line, which is empty while it executes another program, this never changes.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in {"Z", "X"} else int(fields[18])  # proc_pid_stat(5), field 22


def require_running(cluster: Layout) -> int:
    """Like `node_pid`, but refuse if the cluster is down."""
    pid = node_pid(cluster)
    if pid is None:
        raise Refusal("The cluster is down: start it with `python -m hack.cluster up`.")
    return pid


def inside(cluster: Layout, *command: str | Path) -> list[str]:
    """The command line that runs `command` with the node's network, files and resolver."""
    options = [f"--target={require_running(cluster)}", "--mount", "--net", "--pid", "--wd=."]
    return ["nsenter", *options, "--", *map(str, command)]


def kubectl(cluster: Layout, *arguments: str | Path) -> list[str]:
    """The command line of the cluster's own kubectl, as administrator."""
    if not cluster.cache.kubeconfig.exists():
        raise Refusal("The cluster is down: start it with `python -m hack.cluster up`.")
    kube = build.build(build.KUBE, cluster.cache) / "kube"
    configured = [str(kube), "kubectl", f"--kubeconfig={cluster.cache.kubeconfig}"]
    return [*configured, *map(str, arguments)]


def ask(cluster: Layout, *arguments: str) -> str:
    """What kubectl prints; empty if it fails."""
    done = subprocess.run(kubectl(cluster, *arguments), capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def api_ready(cluster: Layout) -> bool:
    """Whether the API server calls itself ready."""
    try:
        config = json.loads(cluster.cache.kubeconfig.read_text())
    except (OSError, ValueError):
        return False
    return probe.is_ready(config["clusters"][0]["cluster"]["server"], cluster.pki)


def node_ready(cluster: Layout) -> bool:
    """Whether the node's Ready condition is true."""
    path = "{.status.conditions[?(@.type=='Ready')].status}"
    return ask(cluster, "get", "node", NODE, "-o", f"jsonpath={path}") == "True"


def wait(what: str, holds: Condition, *, cluster: Layout, seconds: float) -> None:
    """Poll until `holds`; refuse if the node ends or the time is over.

    Raises:
        Refusal: names the logs that tell more.
    """
    deadline = time.monotonic() + seconds
    while not holds():
        if node_pid(cluster) is None:
            raise Refusal(f"The node ended before {what}: {cluster.logs}/node.log says why.")
        if time.monotonic() > deadline:
            raise Refusal(
                f"No {what} within {seconds:.0f} s: the logs in {cluster.logs} say why; "
                "`python -m hack.cluster down` cleans up."
            )
        time.sleep(POLL_SECONDS)


def kill_node(pid: int) -> None:
    """End the node's process 1, and with it, by the kernel's hand, every process of the node."""
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}").exists():
        time.sleep(POLL_SECONDS / 2)
