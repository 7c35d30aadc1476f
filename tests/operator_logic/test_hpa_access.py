"""Who may read the metrics, and how the server is known."""

import asyncio
import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from kvarn_operator.metrics_api.access import (
    ForbiddenError,
    FrontProxy,
    UnauthenticatedError,
    User,
    authenticate,
    authorise,
)
from kvarn_operator.metrics_api.certificate import Serving
from kvarn_operator.metrics_api.registration import LOOK_AGAIN, SERVICE, Registration
from kvarn_operator.metrics_api.server import Server
from kvarn_operator.metrics_api.values import Values

AUTHORITY = Serving.make("front-proxy-ca", now=datetime.now().astimezone()).certificate
CONFIG_MAP = {
    "data": {
        "requestheader-client-ca-file": AUTHORITY,
        "requestheader-allowed-names": '["front-proxy"]',
        "requestheader-username-headers": '["X-Remote-User"]',
        "requestheader-group-headers": '["X-Remote-Group"]',
        "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
    }
}
PROXY = FrontProxy.read(CONFIG_MAP)
FRONT = {"subject": ((("commonName", "front-proxy"),),)}
OTHER = {"subject": ((("commonName", "somebody"),),)}
SAID = [
    ("X-Remote-User", "ann"),
    ("X-Remote-Group", "team"),
    ("X-Remote-Extra-Scopes%2Fa", "one"),
    ("X-Remote-Extra-Scopes%2Fa", "two"),
]


class Api:
    """An API server that knows one token, one permission, and its own two objects."""

    def __init__(self) -> None:
        self.bundles: dict[str, str] = {}

    async def review(self, kind: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        if kind == "TokenReview":
            known = spec["token"] == "good"
            return {"authenticated": known, "user": {"username": "bot", "groups": ["bots"]}}
        return {"allowed": spec["user"] == "ann"}

    async def api_service(self, name: str) -> Mapping[str, Any]:
        service = {"name": SERVICE, "namespace": "kvarn-system"}
        return {"spec": {"service": service, "caBundle": self.bundles.get(name)}}

    async def trust(self, name: str, *, bundle: str) -> None:
        self.bundles[name] = bundle

    async def front_proxy(self) -> Mapping[str, Any]:
        return CONFIG_MAP


async def who(certificate: Mapping[str, Any] | None, headers: list[tuple[str, str]]) -> User:
    assert PROXY is not None
    return await authenticate(PROXY, certificate, headers, reviews=Api())


async def test_the_api_server_is_believed_about_who_asks() -> None:
    user = await who(FRONT, SAID)

    assert user.name == "ann"
    assert user.groups == ("team", "system:authenticated")
    assert user.extra == {"scopes/a": ("one", "two")}


@pytest.mark.parametrize("certificate", [OTHER, None])
async def test_nobody_else_may_say_who_asks(certificate: Mapping[str, Any] | None) -> None:
    with pytest.raises(UnauthenticatedError):
        await who(certificate, SAID)


async def test_a_token_is_reviewed() -> None:
    assert (await who(None, [("Authorization", "Bearer good")])).name == "bot"
    with pytest.raises(UnauthenticatedError, match="does not know"):
        await who(None, [("Authorization", "Bearer bad")])
    with pytest.raises(UnauthenticatedError, match="bring a bearer token"):
        await who(None, [("Authorization", "Basic YTpi")])


async def test_what_a_user_may_is_asked_unless_they_may_do_anything() -> None:
    await authorise(User(name="ann"), {}, reviews=Api())
    await authorise(User(name="root", groups=("system:masters",)), {}, reviews=Api())
    with pytest.raises(ForbiddenError, match="bob may not"):
        await authorise(User(name="bob"), {}, reviews=Api())


def test_without_a_front_proxy_nobody_is_believed() -> None:
    assert FrontProxy.read({"data": {"client-ca-file": AUTHORITY}}) is None


@dataclass
class Clock:
    """A time that a test moves; certificates are checked against the real one."""

    now: datetime = field(default_factory=lambda: datetime.now().astimezone())

    def __call__(self) -> datetime:
        return self.now


async def served_certificate(server: Server) -> bytes:
    """What a client is shown, without asking whether it is good."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return shown


async def test_certificates_are_renewed_in_time_and_the_old_one_stays_trusted_meanwhile(
    unused_tcp_port: int,
) -> None:
    api, clock = Api(), Clock()
    server = Server(values=Values(), reviews=api, clock=clock, port=unused_tcp_port)
    registration = Registration(api=api, server=server, clock=clock)
    seen = []
    for days in (0, 1, 21):
        clock.now = clock.now + timedelta(days=days) + LOOK_AGAIN
        assert await registration.ensure() == ""
        seen.append(await served_certificate(server))
    await server.close()

    assert seen[0] == seen[1] != seen[2]
    (bundle,) = set(api.bundles.values())
    trusted = ssl.create_default_context(cadata=base64.b64decode(bundle).decode())
    assert {*seen} <= {*trusted.get_ca_certs(binary_form=True)}


class Kedas(Api):
    """The same where KEDA serves one of the two groups."""

    async def api_service(self, name: str) -> Mapping[str, Any]:
        found = await super().api_service(name)
        if "external" not in name:
            return found
        return {"spec": {"service": {"name": "keda-metrics", "namespace": "keda"}}}


async def test_one_group_is_served_where_another_serves_the_other(unused_tcp_port: int) -> None:
    """An APIService that names our Service and gets no answer is in everyone's way."""
    api, clock = Kedas(), Clock()
    server = Server(values=Values(), reviews=api, clock=clock, port=unused_tcp_port)

    trouble = await Registration(api=api, server=server, clock=clock).ensure()

    assert "is served by keda/keda-metrics" in trouble
    assert await served_certificate(server)
    assert list(api.bundles) == ["v1beta2.custom.metrics.k8s.io"]
    await server.close()


async def test_a_port_that_is_taken_is_told(unused_tcp_port: int) -> None:
    api, clock = Api(), Clock()
    first, second = (
        Registration(
            api=api,
            server=Server(values=Values(), reviews=api, clock=clock, port=unused_tcp_port),
            clock=clock,
        )
        for _ in range(2)
    )
    await first.ensure()

    assert "set KVARN_METRICS_API_PORT" in await second.ensure()

    for each in (first, second):
        await each.server.close()
