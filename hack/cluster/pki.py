"""Certificates and kubeconfigs of a cluster that lives for a day."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=365)
CLOCK_SKEW = timedelta(hours=1)
SERVICE_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
)
"""The names that pods and the host call the API server by."""


@dataclass(frozen=True)
class Identity:
    """Whom a certificate is for: `organization` is the RBAC group, `hosts` names and addresses."""

    common_name: str
    organization: str = ""
    hosts: Sequence[str] = ()


@dataclass(frozen=True)
class Authority:
    """A certificate authority that keeps its files as `NAME.crt` and `NAME.key` in one folder."""

    directory: Path
    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def create(cls, directory: Path, name: str) -> "Authority":
        """Make the authority and write its two files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(Identity(name))
        certificate = (
            _builder(subject, key.public_key(), issuer=subject, issuer_key=key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write_pair(directory / name, key, certificate)
        return cls(directory, name, key, certificate)

    def issue(self, name: str, identity: Identity) -> None:
        """Write `NAME.crt` and `NAME.key`, good for a server and for a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            _builder(
                _subject(identity),
                key.public_key(),
                issuer=self.certificate.subject,
                issuer_key=self.key.public_key(),
            )
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(_usage(signs_certificates=False), critical=True)
        )
        if identity.hosts:
            names = x509.SubjectAlternativeName([_general_name(host) for host in identity.hosts])
            builder = builder.add_extension(names, critical=False)
        _write_pair(self.directory / name, key, builder.sign(self.key, hashes.SHA256()))


def create(directory: Path, *, node: str, addresses: Sequence[str]) -> None:
    """Write every key and certificate of a cluster into `directory`.

    Args:
        directory: gets `NAME.crt` and `NAME.key` for each component, and the key `sa.key` with
            its public half `sa.pub` that service account tokens are signed with.
        node: the node's name.
        addresses: IP addresses at which the API server and the kubelet are reached.
    """
    directory.mkdir(parents=True, exist_ok=True)
    authority = Authority.create(directory, "ca")
    hosts = (*SERVICE_NAMES, node, *addresses)
    for name, identity in {
        "apiserver": Identity("kube-apiserver", hosts=hosts),
        "apiserver-kubelet-client": Identity("kube-apiserver-kubelet-client", "system:masters"),
        "kubelet-server": Identity(node, hosts=hosts),
        "admin": Identity("admin", "system:masters"),
        "controller-manager": Identity("system:kube-controller-manager"),
        "scheduler": Identity("system:kube-scheduler"),
        "kubelet": Identity(f"system:node:{node}", "system:nodes"),
        "proxy": Identity("system:kube-proxy"),
        "coredns": Identity("system:coredns"),
    }.items():
        authority.issue(name, identity)
    # An authority of its own: else any client certificate could pose as the front proxy.
    Authority.create(directory, "front-proxy-ca").issue("front-proxy", Identity("front-proxy"))
    _write_signing_key(directory / "sa")


def write_kubeconfig(path: Path, *, pki: Path, user: str, server: str) -> None:
    """Write a kubeconfig that holds the certificates of `user` itself, readable by its owner."""

    def encoded(name: str) -> str:
        return base64.b64encode((pki / name).read_bytes()).decode()

    cluster = {"server": server, "certificate-authority-data": encoded("ca.crt")}
    credentials = {
        "client-certificate-data": encoded(f"{user}.crt"),
        "client-key-data": encoded(f"{user}.key"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kvarn", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "kvarn", "context": {"cluster": "kvarn", "user": user}}],
        "current-context": "kvarn",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))


def _builder(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def _subject(identity: Identity) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, identity.common_name)]
    if identity.organization:
        group = x509.NameAttribute(NameOID.ORGANIZATION_NAME, identity.organization)
        attributes.insert(0, group)
    return x509.Name(attributes)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_pair(stem: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    _write_key(stem.with_suffix(".key"), key)
    stem.with_suffix(".crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_signing_key(stem: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    _write_key(stem.with_suffix(".key"), key)
    stem.with_suffix(".pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
