"""The HTTPS server that the API server forwards to."""

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiohttp import web

from kvarn_operator import OWNER_LABEL
from kvarn_operator.metrics_api import documents
from kvarn_operator.metrics_api.access import (
    ForbiddenError,
    FrontProxy,
    Reviews,
    UnauthenticatedError,
    authenticate,
    authorise,
)
from kvarn_operator.metrics_api.documents import CUSTOM, EXTERNAL, RESOURCE, Served
from kvarn_operator.metrics_api.values import NoValueError, UnknownError, Value, Values, selected

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_ANSWERS: tuple[tuple[type[Exception], int, str], ...] = (
    (UnauthenticatedError, 401, "Unauthorized"),
    (ForbiddenError, 403, "Forbidden"),
    (UnknownError, 404, "NotFound"),
    (ValueError, 400, "BadRequest"),
    (NoValueError, 503, "ServiceUnavailable"),
)


@dataclass(slots=True, kw_only=True)
class Server:
    """Serves `values` to those who may read them.

    Attributes:
        clock: the time, in UTC.
        port: to listen on.
    """

    values: Values
    reviews: Reviews
    clock: Callable[[], datetime]
    port: int
    _proxy: FrontProxy | None = None
    _runner: web.AppRunner | None = None
    _site: web.TCPSite | None = None

    async def listen(self, context: ssl.SSLContext, proxy: FrontProxy) -> None:
        """Listen from now on with this certificate, for this front proxy."""
        self._proxy = proxy
        if self._runner is None:
            self._runner = web.AppRunner(self._application(), access_log=None)
            await self._runner.setup()
        if self._site is not None:
            await self._site.stop()
            self._site = None
        site = web.TCPSite(self._runner, port=self.port, ssl_context=context)
        await site.start()
        self._site = site

    async def close(self) -> None:
        """End it; no error if it never began."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[_as_status])
        for served in documents.ALL:
            at = f"/apis/{served.group}"
            application.router.add_get(at, self._discovery(documents.group(served)))
            at = f"/apis/{served.api_version}"
            application.router.add_get(at, self._discovery(documents.resources(served)))
        place = f"/apis/{EXTERNAL.api_version}/namespaces/{{namespace}}"
        application.router.add_get(f"{place}/{{metric}}", self._external)
        place = f"/apis/{CUSTOM.api_version}/namespaces/{{namespace}}/{RESOURCE}"
        application.router.add_get(f"{place}/{{name}}/{{metric}}", self._custom)
        return application

    def _discovery(self, document: documents.Document) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            action = {"nonResourceAttributes": {"path": request.path, "verb": "get"}}
            await self._admit(request, action)
            return web.json_response(document)

        return answer

    async def _external(self, request: web.Request) -> web.Response:
        metric = request.match_info["metric"]
        await self._admit(request, _reading(EXTERNAL, request, resource=metric, verb="list"))
        values = self._read(request, selected(request.query.get("labelSelector", "")))
        return web.json_response(documents.external(metric, values))

    async def _custom(self, request: web.Request) -> web.Response:
        metric, name = request.match_info["metric"], request.match_info["name"]
        what = {"resource": RESOURCE, "subresource": metric, "name": name, "verb": "get"}
        await self._admit(request, _reading(CUSTOM, request, **what))
        selector = selected(request.query.get("labelSelector", ""))
        if name != "*":
            selector = {OWNER_LABEL: name}
        values = self._read(request, selector)
        namespace = request.match_info["namespace"]
        return web.json_response(documents.custom(metric, values, namespace=namespace))

    def _read(self, request: web.Request, selector: Mapping[str, str]) -> list[Value]:
        where = request.match_info
        return self.values.read(
            where["metric"], namespace=where["namespace"], selector=selector, now=self.clock()
        )

    async def _admit(self, request: web.Request, action: Mapping[str, Any]) -> None:
        if self._proxy is None or request.transport is None:
            raise UnauthenticatedError("The connection is gone.")
        certificate = request.transport.get_extra_info("peercert")
        headers = request.headers.items()
        user = await authenticate(self._proxy, certificate, headers, reviews=self.reviews)
        await authorise(user, action, reviews=self.reviews)


def _reading(served: Served, request: web.Request, **what: str) -> dict[str, Any]:
    place = {"namespace": request.match_info["namespace"]}
    return {
        "resourceAttributes": {"group": served.group, "version": served.version, **place, **what}
    }


@web.middleware
async def _as_status(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What is refused, as an API server refuses it."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return _failure(404, "NotFound", "There is nothing here.")
    except tuple(kind for kind, _, _ in _ANSWERS) as error:
        code, reason = next((c, r) for kind, c, r in _ANSWERS if isinstance(error, kind))
        return _failure(code, reason, str(error))


def _failure(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(documents.failure(code, reason, message), status=code)
