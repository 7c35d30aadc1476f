"""Certificates: who may pose as whom."""

import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509

from hack.cluster import pki


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The keys of a cluster."""
    directory = tmp_path_factory.mktemp("pki")
    pki.create(directory, node="kvarn", addresses=["127.0.0.1", "10.96.0.1"])
    return directory


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_client_verifies_the_api_server_by_address_and_by_name(keys: Path) -> None:
    """A real TLS handshake, both ends verifying."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(keys / "apiserver.crt", keys / "apiserver.key")
    server.load_verify_locations(keys / "ca.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=keys / "ca.crt")
    client.load_cert_chain(keys / "admin.crt", keys / "admin.key")
    for name in ("127.0.0.1", "kubernetes.default.svc"):
        assert handshake(client, server, name) == (("commonName", "admin"),)


def handshake(
    client: ssl.SSLContext, server: ssl.SSLContext, name: str
) -> tuple[tuple[str, str], ...]:
    """Shake hands over a socket pair; return the last part of the client's subject."""
    import socket

    left, right = socket.socketpair()
    accepted: list[ssl.SSLSocket] = []
    thread = threading.Thread(
        target=lambda: accepted.append(server.wrap_socket(right, server_side=True))
    )
    thread.start()
    with client.wrap_socket(left, server_hostname=name):
        thread.join()
        with accepted[0] as end:
            subject = (end.getpeercert() or {})["subject"]
    return tuple(subject[-1])  # type: ignore[arg-type]


def test_the_front_proxy_has_an_authority_of_its_own(keys: Path) -> None:
    """Else any client certificate could claim another user's name."""
    front, ca = certificate(keys / "front-proxy.crt"), certificate(keys / "ca.crt")
    assert front.issuer != ca.subject
    front.verify_directly_issued_by(certificate(keys / "front-proxy-ca.crt"))


def test_private_keys_are_readable_by_their_owner_alone(keys: Path) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in keys.glob("*.key")}
    assert modes == {0o600}


def test_a_kubeconfig_is_readable_by_its_owner_alone(keys: Path, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    pki.write_kubeconfig(path, pki=keys, user="admin", server="https://127.0.0.1:6443")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
