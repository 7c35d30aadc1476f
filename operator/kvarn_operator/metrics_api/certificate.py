"""The server's certificate: made in memory, known by nobody but the APIServices that name it."""

import os
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=30)
RENEWAL = timedelta(days=10)
"""Before its end a certificate is replaced."""
CLOCK_SKEW = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A certificate that vouches for itself, with its key, in PEM.

    Attributes:
        host: the name that it is good for.
        renewed_from: when it is to be replaced.
    """

    host: str
    certificate: str
    key: str
    renewed_from: datetime

    @classmethod
    def make(cls, host: str, *, now: datetime) -> Self:
        """A new one."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kvarn-operator")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - CLOCK_SKEW)
            .not_valid_after(now + LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(
            host=host,
            certificate=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            key=key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ).decode(),
            renewed_from=now + LIFETIME - RENEWAL,
        )

    def context(self, *, authority: str) -> ssl.SSLContext:
        """TLS with this certificate, for clients that may show one signed by `authority`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=authority)
        # Python reads keys from files alone: this one is in no file system.
        with os.fdopen(os.memfd_create("serving"), "w") as file:
            file.write(self.key + self.certificate)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
        return context
