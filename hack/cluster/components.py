"""The command line of each Kubernetes component."""

from dataclasses import dataclass
from pathlib import Path

SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
POD_CIDR = "10.244.0.0/24"
FAKE_POD_CIDR = "10.245.0.0/16"

CLIENT_RATE = ("--kube-api-qps=200", "--kube-api-burst=400")
"""The default rate limit alone costs the controllers six seconds at the start."""


@dataclass(frozen=True)
class Endpoints:
    """Where etcd and the API server listen, on the loopback of their network."""

    etcd: int
    etcd_peer: int
    api: int

    @property
    def etcd_url(self) -> str:
        """Where the API server finds etcd."""
        return f"http://127.0.0.1:{self.etcd}"

    @property
    def api_url(self) -> str:
        """Where clients find the API server."""
        return f"https://127.0.0.1:{self.api}"


def etcd(kube: Path, *, data: Path, endpoints: Endpoints) -> list[str]:
    """Etcd without fsync: the data are gone with the cluster anyway."""
    peer = f"http://127.0.0.1:{endpoints.etcd_peer}"
    return [
        str(kube),
        "etcd",
        f"--data-dir={data}",
        f"--listen-client-urls={endpoints.etcd_url}",
        f"--advertise-client-urls={endpoints.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver(kube: Path, *, pki: Path, endpoints: Endpoints) -> list[str]:
    """The API server: certificates, RBAC, service accounts, aggregation."""
    return [
        str(kube),
        "kube-apiserver",
        f"--etcd-servers={endpoints.etcd_url}",
        f"--secure-port={endpoints.api}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-signing-key-file={pki}/sa.key",
        f"--service-account-key-file={pki}/sa.pub",
        f"--requestheader-client-ca-file={pki}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki}/front-proxy.crt",
        f"--proxy-client-key-file={pki}/front-proxy.key",
    ]


def node_apiserver(kube: Path, *, pki: Path, endpoints: Endpoints, address: str) -> list[str]:
    """The API server of a node at `address`: it also talks to the kubelet."""
    return [
        *apiserver(kube, pki=pki, endpoints=endpoints),
        "--bind-address=0.0.0.0",
        f"--advertise-address={address}",
        # As on hosted clusters: pods that ask for a GPU tolerate the taint of GPU nodes.
        "--enable-admission-plugins=NodeRestriction,ExtendedResourceToleration",
        f"--kubelet-client-certificate={pki}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={pki}/apiserver-kubelet-client.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def controller_manager(kube: Path, *, pki: Path, kubeconfig: Path) -> list[str]:
    """All standard controllers, as service accounts of their own; a quick autoscaler."""
    return [
        str(kube),
        "kube-controller-manager",
        *_client(kubeconfig),
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={pki}/sa.key",
        f"--root-ca-file={pki}/ca.crt",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--horizontal-pod-autoscaler-sync-period=5s",
        *CLIENT_RATE,
    ]


def scheduler(kube: Path, *, kubeconfig: Path) -> list[str]:
    """The scheduler."""
    command = [str(kube), "kube-scheduler", *_client(kubeconfig), "--leader-elect=false"]
    return [*command, *CLIENT_RATE]


def kubelet(kube: Path, *, config: Path, kubeconfig: Path) -> list[str]:
    """The kubelet, which keeps everything in its usual place."""
    return [str(kube), "kubelet", f"--config={config}", f"--kubeconfig={kubeconfig}"]


def kwok(kube: Path, *, kubeconfig: Path, stages: Path, address: str) -> list[str]:
    """Kwok, which plays the kubelet of every node annotated as fake, at `address`."""
    return [
        str(kube),
        "kwok",
        f"--kubeconfig={kubeconfig}",
        f"--config={stages}",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        "--node-lease-duration-seconds=40",
        f"--node-ip={address}",
        f"--cidr={FAKE_POD_CIDR}",
    ]


def _client(kubeconfig: Path) -> list[str]:
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
    ]
