"""Makes the server known: its certificate in the APIServices, their front proxy in the server."""

import asyncio
import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from kvarn_operator.metrics_api import documents
from kvarn_operator.metrics_api.access import FrontProxy
from kvarn_operator.metrics_api.certificate import Serving
from kvarn_operator.metrics_api.server import Server

SERVICE = "kvarn-operator-metrics-api"
"""Name of the Service in ``manifests/metrics-api``: APIServices that name it are ours."""
INSTALL = "kubectl apply -k manifests/metrics-api"
LOOK_AGAIN = timedelta(seconds=10)
"""Between two looks at the APIServices and at the front proxy."""


class Registry(Protocol):
    """What is asked of the API server; see `kvarn_operator.cluster.Cluster`."""

    async def api_service(self, name: str) -> Mapping[str, Any] | None:
        """An APIService; None if there is none or it may not be read."""

    async def trust(self, name: str, *, bundle: str) -> None:
        """Have the API server trust this bundle, in base64, behind an APIService."""

    async def front_proxy(self) -> Mapping[str, Any] | None:
        """The ConfigMap ``extension-apiserver-authentication``; None if it may not be read."""


@dataclass(slots=True, kw_only=True)
class Registration:
    """The server and what it is known by.

    Attributes:
        clock: the time, in UTC.
    """

    api: Registry
    server: Server
    clock: Callable[[], datetime]
    _serving: Serving | None = None
    _older: str = ""
    _listening: tuple[Serving, FrontProxy] | None = None
    _looked: datetime | None = None
    _trouble: str = ""
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def ensure(self) -> str:
        """Serve, if the APIServices are there; an empty string, or what a person has to do."""
        async with self._one_at_a_time:
            now = self.clock()
            if self._looked is None or now - self._looked >= LOOK_AGAIN:
                self._trouble = await self._look(now)
                self._looked = now
            return self._trouble

    async def _look(self, now: datetime) -> str:
        found = {
            served: await self.api.api_service(served.service_name) for served in documents.ALL
        }
        ours = {served: body for served, body in found.items() if body and _service(body)}
        trouble = await self._serve(ours, now) if ours else ""
        return trouble if documents.EXTERNAL in ours else _missing(found[documents.EXTERNAL])

    async def _serve(
        self, ours: Mapping[documents.Served, Mapping[str, Any]], now: datetime
    ) -> str:
        """Listen for those APIServices; an empty string, or what a person has to do."""
        config_map = await self.api.front_proxy()
        proxy = FrontProxy.read(config_map) if config_map else None
        if proxy is None:
            return f"The API server's front proxy is not known: {INSTALL}."
        serving = self._renewed(f"{SERVICE}.{_service(next(iter(ours.values())))}.svc", now)
        bundle = base64.b64encode((serving.certificate + self._older).encode()).decode()
        for served, body in ours.items():
            if body["spec"].get("caBundle") != bundle:
                await self.api.trust(served.service_name, bundle=bundle)
        return await self._listen(serving, proxy)

    async def _listen(self, serving: Serving, proxy: FrontProxy) -> str:
        if self._listening == (serving, proxy):
            return ""
        self._listening = None
        try:
            await self.server.listen(serving.context(authority=proxy.authority), proxy)
        except OSError as error:
            return f"The metrics cannot be served ({error}): set KVARN_METRICS_API_PORT."
        self._listening = (serving, proxy)
        return ""

    def _renewed(self, host: str, now: datetime) -> Serving:
        """A certificate for `host` that is young enough."""
        serving = self._serving
        if serving is None or serving.host != host or now >= serving.renewed_from:
            self._older = serving.certificate if serving else ""
            self._serving = serving = Serving.make(host, now=now)
        return serving


def _service(api_service: Mapping[str, Any]) -> str:
    """The namespace of our Service, if this APIService names it; empty otherwise."""
    service = api_service["spec"].get("service") or {}
    return str(service["namespace"]) if service.get("name") == SERVICE else ""


def _missing(api_service: Mapping[str, Any] | None) -> str:
    if api_service is None:
        return f"{documents.EXTERNAL.group} is not served: {INSTALL}, or set mode builtin."
    service = api_service["spec"].get("service") or {}
    other = f"{service.get('namespace')}/{service.get('name')}"
    return (
        f"{documents.EXTERNAL.group} is served by {other}, and there can be one only: set mode"
        " builtin, or keda where that is KEDA's."
    )
