"""Writes what the components read: keys, kubeconfigs and the filled-in files of `config/`."""

from pathlib import Path
from string import Template

from hack.cluster import components, layout, pki
from hack.cluster.layout import Layout

TEMPLATES = Path(__file__).parent / "config"


def write(cluster: Layout, *, port: int, stages: str) -> None:
    """Write all of it for a new cluster reached at `port`; `stages` is YAML for kwok."""
    addresses = ["127.0.0.1", components.API_SERVICE_IP, layout.NODE_IP]
    pki.create(cluster.pki, node=layout.NODE, addresses=addresses)
    inside = layout.INSIDE.api_url
    for user in ("controller-manager", "scheduler", "kubelet", "proxy", "coredns", "admin"):
        path = cluster.kubeconfigs / user
        pki.write_kubeconfig(path, pki=cluster.pki, user=user, server=inside)
    pki.write_kubeconfig(
        cluster.cache.kubeconfig,
        pki=cluster.pki,
        user="admin",
        server=f"https://127.0.0.1:{port}",
    )
    for template in sorted(p for p in TEMPLATES.rglob("*") if p.is_file()):
        target = cluster.configuration / template.relative_to(TEMPLATES)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(template.read_text()).substitute(_values(cluster)))
    (cluster.configuration / "kwok-stages.yaml").write_text(stages)


def _values(cluster: Layout) -> dict[str, str]:
    return {
        "state": str(cluster.state),
        "pki": str(cluster.pki),
        "configuration": str(cluster.configuration),
        "kubeconfigs": str(cluster.kubeconfigs),
        "containerd": str(cluster.cache.containerd),
        "cgroup": cluster.cgroup,
        "node": layout.NODE,
        "node_ip": layout.NODE_IP,
        "dns_ip": components.DNS_IP,
        "pod_cidr": components.POD_CIDR,
    }
