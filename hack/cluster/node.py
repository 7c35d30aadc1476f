"""Process 1 of the node: makes its surroundings, runs its components, reaps what pods leave behind.

Run as `python -m hack.cluster.node CACHE PORT KUBE COREDNS` in new process, mount, IPC and
host-name namespaces. The listener on the host's loopback is opened before the network namespace is
left, and carries connections to the API server inside. Killing this process ends all others.
Imports the standard library alone, to stay small.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from hack.cache import Cache
from hack.cluster import components, layout, probe
from hack.cluster.forward import forward, listen
from hack.cluster.layout import Layout

RESTART_SECONDS = 2.0
"""Pause before a component that ended is started again."""
POLL_SECONDS = 0.1

SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What kubelet sets for the whole machine: it is shown files of its own with these values."""

NETWORK_SYSCTLS = {
    "net/ipv4/ip_forward": 1,
    "net/ipv4/ip_unprivileged_port_start": 0,
    "net/ipv4/conf/all/route_localnet": 1,
    "net/bridge/bridge-nf-call-iptables": 1,
}
"""These belong to the network namespace."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Component:
    """A program to keep running: started again `RESTART_SECONDS` after it ended."""

    name: str
    command: list[str]
    needs_api: bool = True
    pid: int | None = None
    due: float = field(default_factory=time.monotonic)

    def is_due(self, *, api_ready: bool) -> bool:
        """Whether to start it now."""
        may = api_ready or not self.needs_api
        return self.pid is None and may and self.due <= time.monotonic()


def main() -> None:
    """Become the node."""
    root, port, kube, coredns = sys.argv[1:]
    cluster = Layout(Cache(Path(root)))
    os.chdir("/")
    listener = listen(int(port))
    leave_network()
    forward(listener, layout.INSIDE.api)
    make_mounts(cluster)
    make_network()
    make_cgroups(cluster)
    discard_containers(cluster)
    supervise(cluster, commands(cluster, Path(kube), Path(coredns)))


def leave_network() -> None:
    """Move this process into a network namespace of its own."""
    clone_new_network = 0x40000000
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(clone_new_network):
        raise OSError(ctypes.get_errno(), "unshare of the network namespace")


def make_mounts(cluster: Layout) -> None:
    """Give the node its own /run, /var/log, resolver and machine-wide settings."""
    run("mount", "--make-rprivate", "/")
    # Volumes that kubelet mounts must reach the containers.
    run("mount", "--make-rshared", "/")
    for folder in (Path("/run"), Path("/var/log"), layout.CNI_FOLDER):
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(folder))
    run("mount", "--bind", str(cluster.kubelet), str(layout.KUBELET_FOLDER))
    for name in ("lock", "netns", "containerd"):
        Path("/run", name).mkdir()
    resolver = Path("/etc/resolv.conf").resolve()
    resolver.parent.mkdir(parents=True, exist_ok=True)
    resolver.touch()
    run("mount", "--bind", str(cluster.configuration / "resolv.conf"), str(resolver))
    for name, value in SYSCTLS.items():
        shown = cluster.state / "sysctl" / name
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.write_text(f"{value}\n")
        run("mount", "--bind", str(shown), f"/proc/sys/{name}")


def make_network() -> None:
    """One address, a route to the Services, and no way out."""
    run("ip", "link", "set", "lo", "up")
    # Many kernels have no dummy device: the loopback carries the node's address.
    run("ip", "address", "add", f"{layout.NODE_IP}/32", "dev", "lo")
    services = components.SERVICE_CIDR
    run("ip", "route", "add", services, "dev", "lo", "src", layout.NODE_IP)
    run("ip", "route", "add", "unreachable", "default")
    for name, value in NETWORK_SYSCTLS.items():
        Path("/proc/sys", name).write_text(f"{value}\n")


def make_cgroups(cluster: Layout) -> None:
    """Make the control group that kubelet expects to find in every hierarchy."""
    for root in layout.cgroup_roots():
        group = root / cluster.cgroup
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (root / name).exists():
                (group / name).write_text((root / name).read_text())


def discard_containers(cluster: Layout) -> None:
    """Forget the containers of an earlier cluster, which died with it; keep the images."""
    remembered = cluster.cache.containerd / "io.containerd.grpc.v1.cri"
    if not any(remembered.glob("*/*")):
        return
    shutil.rmtree(remembered)
    ctr = ["ctr", "--namespace", "k8s.io", "containers"]
    # Without its Kubernetes part, which would first try to bring them back.
    config = (cluster.configuration / "containerd.toml").read_text()
    plain = cluster.configuration / "containerd-plain.toml"
    plain.write_text(config.replace("[\n", '[\n  "io.containerd.grpc.v1.cri",\n', 1))
    with subprocess.Popen(["containerd", "-c", plain, "-l", "error"]) as containerd:
        wait_for(layout.CONTAINERD_SOCKET)
        dead = subprocess.run([*ctr, "list", "-q"], check=True, capture_output=True, text=True)
        run(*ctr, "delete", *dead.stdout.split())
        containerd.terminate()


def commands(cluster: Layout, kube: Path, coredns: Path) -> list[Component]:
    """The node's components in the order of their start."""
    own, users, keys = cluster.configuration, cluster.kubeconfigs, cluster.pki
    inside = layout.INSIDE
    apiserver = components.node_apiserver(kube, pki=keys, endpoints=inside, address=layout.NODE_IP)
    controllers = components.controller_manager(
        kube, pki=keys, kubeconfig=users / "controller-manager"
    )
    kubelet = [
        *components.kubelet(kube, config=own / "kubelet.yaml", kubeconfig=users / "kubelet"),
        f"--node-ip={layout.NODE_IP}",
        f"--hostname-override={layout.NODE}",
    ]
    kwok = components.kwok(
        kube,
        kubeconfig=users / "admin",
        stages=own / "kwok-stages.yaml",
        address=layout.FAKE_NODE_IP,
    )
    etcd = components.etcd(kube, data=cluster.state / "etcd", endpoints=inside)
    return [
        Component("etcd", etcd, needs_api=False),
        Component("containerd", ["containerd", "-c", f"{own}/containerd.toml"], needs_api=False),
        Component("kube-apiserver", apiserver, needs_api=False),
        Component("kube-controller-manager", controllers),
        Component("kube-scheduler", components.scheduler(kube, kubeconfig=users / "scheduler")),
        Component("kubelet", kubelet),
        Component("kube-proxy", [str(kube), "kube-proxy", f"--config={own}/kube-proxy.yaml"]),
        Component("coredns", [str(coredns), "-conf", f"{own}/Corefile"]),
        Component("kwok", kwok),
    ]


def supervise(cluster: Layout, components: list[Component]) -> None:
    """Start components when they are due, and again when they end; for ever."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    api_ready = False
    while True:
        api_ready = api_ready or probe.is_ready(layout.INSIDE.api_url, cluster.pki)
        for component in components:
            if component.is_due(api_ready=api_ready):
                start(component, cluster)
                record(components, cluster)
        signal.sigtimedwait({signal.SIGCHLD}, 1.0 if api_ready else POLL_SECONDS)
        for pid, code in reap():
            note_end(components, pid, code)


def start(component: Component, cluster: Layout) -> None:
    """Start a component with its log at `COMPONENT.log`."""
    log = str(cluster.logs / f"{component.name}.log")
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    component.pid = os.posix_spawnp(
        component.command[0],
        component.command,
        environment(),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsigmask=(),
        setsid=True,
    )


def environment() -> dict[str, str]:
    """What components get: no proxy settings, which would lead out of a network without exit."""
    kept = {name: v for name, v in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "PATH": PATH, "HOME": "/root"}


def record(components: list[Component], cluster: Layout) -> None:
    """Tell `status` which process is which component."""
    pids = {component.name: component.pid for component in components if component.pid}
    unfinished = cluster.processes.with_suffix(".new")
    unfinished.write_text(json.dumps(pids))
    unfinished.rename(cluster.processes)


def reap() -> list[tuple[int, int]]:
    """Collect ended children, the node's own and adopted ones: (process id, exit code)."""
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if not pid:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def note_end(components: list[Component], pid: int, code: int) -> None:
    """If `pid` was a component, say so and have it started again."""
    for component in components:
        if component.pid == pid:
            print(f"{time.strftime('%T')} {component.name} ended with {code}", flush=True)
            component.pid = None
            component.due = time.monotonic() + RESTART_SECONDS


def wait_for(path: Path, *, seconds: float = 30.0) -> None:
    """Wait until `path` is there."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not appear in {seconds:.0f} s")
        time.sleep(POLL_SECONDS)


def run(*command: str) -> None:
    """Run a command of the set-up; its failure is the node's."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
