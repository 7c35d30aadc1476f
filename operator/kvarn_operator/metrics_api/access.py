"""Who asks, and whether they may: both are the API server's to decide.

A request that the API server forwards carries its client certificate, and names the user in
headers; any other has to bring a token, which the API server reviews. What the user may do is asked
with a SubjectAccessReview. See "Extension API server authentication and authorization" in
Kubernetes' documentation of the aggregation layer.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self
from urllib.parse import unquote

Headers = Iterable[tuple[str, str]]
Certificate = Mapping[str, Any]
"""A client's certificate as Python's ``ssl`` shows it, once its signature has been checked."""

MASTERS = "system:masters"
"""Whoever is in this group may do anything: the API server does not even ask."""
AUTHENTICATED, UNAUTHENTICATED = "system:authenticated", "system:unauthenticated"
"""Each user is in one of these; where the API server asks for itself, it leaves that out."""


class UnauthenticatedError(Exception):
    """Nobody is known to ask."""


class ForbiddenError(Exception):
    """Who asks may not do that."""


class Reviews(Protocol):
    """What is asked of the API server; see `kvarn_operator.cluster.Cluster`."""

    async def review(self, kind: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """The status of a TokenReview or SubjectAccessReview with this spec."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontProxy:
    """How the API server makes itself known, from ``extension-apiserver-authentication``.

    Attributes:
        authority: who signs its client certificate, in PEM.
        names: common names of that certificate; any, if empty.
    """

    authority: str
    names: frozenset[str]
    user_headers: tuple[str, ...]
    group_headers: tuple[str, ...]
    extra_prefixes: tuple[str, ...]

    @classmethod
    def read(cls, config_map: Mapping[str, Any]) -> Self | None:
        """From the ConfigMap; None if the API server has no front proxy."""
        data = config_map.get("data") or {}

        def listed(name: str) -> tuple[str, ...]:
            return tuple(map(str.lower, json.loads(data.get(f"requestheader-{name}", "[]"))))

        if "requestheader-client-ca-file" not in data:
            return None
        return cls(
            authority=data["requestheader-client-ca-file"],
            names=frozenset(json.loads(data.get("requestheader-allowed-names", "[]"))),
            user_headers=listed("username-headers"),
            group_headers=listed("group-headers"),
            extra_prefixes=listed("extra-headers-prefix"),
        )

    def user(self, certificate: Certificate, headers: Headers) -> User | None:
        """Who the API server says that asks; None if it is not the API server that says it."""
        names = {value for part in certificate["subject"] for key, value in part if key == _NAME}
        if self.names and not self.names & names:
            return None
        given = [(name.lower(), value) for name, value in headers]
        name = next((value for key, value in given if key in self.user_headers), "")
        groups = tuple(value for key, value in given if key in self.group_headers)
        if not {*groups} & {AUTHENTICATED, UNAUTHENTICATED}:
            groups = (*groups, AUTHENTICATED)
        return User(name=name, groups=groups, extra=self._extra(given)) if name else None

    def _extra(self, headers: Headers) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for key, value in headers:
            for prefix in self.extra_prefixes:
                if key.startswith(prefix):
                    name = unquote(key.removeprefix(prefix))
                    found[name] = (*found.get(name, ()), value)
        return found


_NAME = "commonName"


async def authenticate(
    proxy: FrontProxy, certificate: Certificate | None, headers: Headers, *, reviews: Reviews
) -> User:
    """Who asks.

    Raises:
        UnauthenticatedError: that is not known.
    """
    headers = list(headers)
    user = proxy.user(certificate, headers) if certificate else None
    if user is not None:
        return user
    given = next((value for key, value in headers if key.lower() == "authorization"), "")
    scheme, _, token = given.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError("Ask through the API server, or bring a bearer token.")
    status = await reviews.review("TokenReview", {"token": token.strip()})
    if not status.get("authenticated"):
        raise UnauthenticatedError("The API server does not know this token.")
    found = status["user"]
    extra = {key: tuple(values) for key, values in (found.get("extra") or {}).items()}
    return User(name=found["username"], groups=tuple(found.get("groups") or ()), extra=extra)


async def authorise(user: User, action: Mapping[str, Any], *, reviews: Reviews) -> None:
    """Return if `user` may do `action`, which is the part of a SubjectAccessReview that names it.

    Raises:
        ForbiddenError: they may not.
    """
    if MASTERS in user.groups:
        return
    who = {"user": user.name, "groups": list(user.groups), "extra": _lists(user.extra)}
    status = await reviews.review("SubjectAccessReview", {**who, **action})
    if not status.get("allowed"):
        raise ForbiddenError(f"{user.name} may not: {status.get('reason') or 'no rule allows it'}.")


def _lists(extra: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {key: list(values) for key, values in extra.items()}
