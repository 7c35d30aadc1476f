"""The API server, as the few requests that the operator makes of it.

All writes are server-side applies or merge patches by one field manager, counted in `metrics`.
Paths are plain: discovery would cost memory and requests, and the kinds are known.
"""

import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp
from kubernetes.aio import client, config

from kvarn_operator import API_VERSION, FIELD_MANAGER, GROUP, PLURAL, VERSION, metrics
from kvarn_operator.gpus import Products, by_product
from kvarn_operator.observe import Manifest
from kvarn_operator.pods import PRODUCT_LABEL

REQUEST_SECONDS = 30.0
PRODUCTS_SECONDS = 30.0
CONNECTIONS = 8
"""Each has a TLS buffer of 256 KiB, and passes of different resources run side by side."""
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
    "Job": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "HorizontalPodAutoscaler": (
        "/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers"
    ),
    "ScaledObject": "/apis/keda.sh/v1alpha1/namespaces/{namespace}/scaledobjects",
    "KVarNDeployment": f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}",
}


class ClusterError(Exception):
    """A request that failed; trying again may help.

    Attributes:
        code: HTTP status; 0 if there was no answer.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class RefusedError(ClusterError):
    """What was asked for is not allowed: it has to change before trying again can help."""


API_SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
FRONT_PROXY = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
REVIEWS = {
    "TokenReview": ("authentication.k8s.io/v1", "tokenreviews"),
    "SubjectAccessReview": ("authorization.k8s.io/v1", "subjectaccessreviews"),
}

_REFUSALS = frozenset({400, 403, 405, 413, 415, 422})


class Cluster:
    """A connection to the API server."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api
        self._products: Products = {}
        self._products_until = 0.0

    @classmethod
    @asynccontextmanager
    async def connect(cls) -> AsyncIterator[Self]:
        """With the pod's service account, else with the kubeconfig; until the block ends.

        Raises:
            kubernetes.aio.config.ConfigException: there is neither.
        """
        settings = client.Configuration()
        settings.connection_pool_maxsize = CONNECTIONS
        try:
            config.load_incluster_config(settings)  # type: ignore[no-untyped-call]
        except config.ConfigException:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                # The library read this variable when it was imported; it may be set by now.
                config_file=os.environ.get("KUBECONFIG"),
                client_configuration=settings,
            )
        async with client.ApiClient(settings) as api:
            yield cls(api)

    async def get(self, kind: str, *, namespace: str, name: str) -> Manifest | None:
        """An object; None if it is not there."""
        try:
            return await self._request("GET", _path(kind, namespace, name))
        except ClusterError as error:
            if error.code == 404:
                return None
            raise

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply; what fields of `manifest` others hold becomes ours."""
        metadata = manifest["metadata"]
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"])
        return await self._write("PATCH", path, body=manifest, kind=manifest["kind"], content=APPLY)

    async def apply_status(self, *, identity: Mapping[str, str], status: Mapping[str, Any]) -> None:
        """Apply the status of the resource that has this name, namespace and uid."""
        body = {
            "apiVersion": API_VERSION,
            "kind": "KVarNDeployment",
            "metadata": dict(identity),
            "status": status,
        }
        path = _path("KVarNDeployment", identity["namespace"], identity["name"]) + "/status"
        await self._write("PATCH", path, body=body, kind="status", content=APPLY)

    async def scale(self, *, namespace: str, name: str, replicas: int) -> None:
        """Apply the scale of a Deployment.

        Unlike a patch, an apply leaves the owner of ``replicas`` in ``managedFields``.
        """
        body = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"replicas": replicas},
        }
        path = _path("Deployment", namespace, name) + "/scale"
        await self._write("PATCH", path, body=body, kind="scale", content=APPLY)

    async def annotate_pod(
        self, *, namespace: str, name: str, notes: Mapping[str, str | None]
    ) -> None:
        """Set annotations of a pod, or remove them; one that has gone meanwhile is no error."""
        body = {"metadata": {"annotations": dict(notes)}}
        path = _path("Pod", namespace, name)
        try:
            await self._write("PATCH", path, body=body, kind="Pod", content=MERGE)
        except ClusterError as error:
            if error.code != 404:
                raise

    async def delete(self, kind: str, *, namespace: str, name: str) -> None:
        """Ask for the deletion of an object; one that is not there is no error."""
        try:
            metrics.WRITES.labels(kind).inc()
            await self._request("DELETE", _path(kind, namespace, name))
        except ClusterError as error:
            if error.code != 404:
                raise

    async def review(self, kind: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """The status of a TokenReview or SubjectAccessReview with this spec."""
        api_version, plural = REVIEWS[kind]
        body = {"apiVersion": api_version, "kind": kind, "spec": spec}
        answer = await self._request("POST", f"/apis/{api_version}/{plural}", body=body)
        status: Mapping[str, Any] = answer["status"]
        return status

    async def api_service(self, name: str) -> Manifest | None:
        """An APIService; None if there is none or it may not be read."""
        return await self._seen(f"{API_SERVICES}/{name}")

    async def trust(self, name: str, *, bundle: str) -> None:
        """Have the API server trust this bundle, in base64, behind an APIService."""
        body = {"spec": {"caBundle": bundle}}
        path = f"{API_SERVICES}/{name}"
        await self._write("PATCH", path, body=body, kind="APIService", content=MERGE)

    async def front_proxy(self) -> Manifest | None:
        """The ConfigMap that tells how the API server makes itself known; None if not readable."""
        return await self._seen(FRONT_PROXY)

    async def _seen(self, path: str) -> Manifest | None:
        try:
            return await self._request("GET", path)
        except ClusterError as error:
            if error.code in {403, 404}:
                return None
            raise

    async def gpu_products(self) -> Products:
        """The GPU products of all nodes, at most half a minute old.

        Empty if nodes may not be read.
        """
        if time.monotonic() >= self._products_until:
            self._products = await self._read_products()
            self._products_until = time.monotonic() + PRODUCTS_SECONDS
        return self._products

    async def _read_products(self) -> Products:
        query = [("labelSelector", PRODUCT_LABEL)]
        try:
            nodes = await self._request("GET", "/api/v1/nodes", query=query)
        except RefusedError:
            return {}
        return by_product(nodes["items"])

    async def serves_resource(self) -> bool:
        """Whether the CRD is installed."""
        try:
            served = await self._request("GET", f"/apis/{GROUP}/{VERSION}")
        except ClusterError as error:
            if error.code == 404:
                return False
            raise
        return any(resource["name"] == PLURAL for resource in served["resources"])

    async def _write(
        self, method: str, path: str, *, body: Mapping[str, Any], kind: str, content: str
    ) -> Manifest:
        query = [("fieldManager", FIELD_MANAGER)]
        if content == APPLY:
            query.append(("force", "true"))
        metrics.WRITES.labels(kind).inc()
        return await self._request(method, path, body=body, query=query, content=content)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: list[tuple[str, str]] | None = None,
        content: str = "application/json",
    ) -> Manifest:
        headers = {"Accept": "application/json", "Content-Type": content}
        request = await self._api.param_serialize(
            method,
            path,
            query_params=query or [],
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = await self._api.call_api(*request, _request_timeout=REQUEST_SECONDS)
            data: bytes = await answer.read()  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            raise ClusterError(0, f"The API server does not answer: {error!r}.") from error
        if answer.status >= 400:
            raise _error(answer.status, data)
        result: Manifest = json.loads(data)
        return result


def _path(kind: str, namespace: str, name: str) -> str:
    return f"{PATHS[kind].format(namespace=namespace)}/{name}"


def _error(code: int, data: bytes) -> ClusterError:
    try:
        message = json.loads(data)["message"]
    except (ValueError, KeyError, TypeError):
        message = data.decode(errors="replace")[:512]
    return (RefusedError if code in _REFUSALS else ClusterError)(code, str(message))
