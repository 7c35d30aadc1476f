"""What the demo and the end-to-end tests ask of a cluster's API server."""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError
from kubernetes.dynamic.resource import Resource

from kvarn_operator import API_VERSION

Manifest = dict[str, Any]
"""A Kubernetes object as JSON."""

FIELD_MANAGER = "kvarn-demo"
API_VERSIONS = {
    "KVarNDeployment": API_VERSION,
    "CustomResourceDefinition": "apiextensions.k8s.io/v1",
    "Deployment": "apps/v1",
    "ReplicaSet": "apps/v1",
    "Job": "batch/v1",
    "PodDisruptionBudget": "policy/v1",
    "EndpointSlice": "discovery.k8s.io/v1",
}
"""Of the kinds that are not `v1`."""

REQUEST_SECONDS = 30.0
ANSWER_SECONDS = 120.0


class Kube:
    """A connection to one cluster, as the kubeconfig's user."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._api = config.new_client_from_config(str(kubeconfig))
        self.core = client.CoreV1Api(self._api)
        self._dynamic = DynamicClient(self._api)

    def close(self) -> None:
        """Close all connections."""
        self._api.close()

    def resource(self, kind: str) -> Resource:
        """The API of a kind."""
        return self._dynamic.resources.get(api_version=API_VERSIONS.get(kind, "v1"), kind=kind)

    def apply(self, *manifests: Manifest) -> None:
        """Server-side apply, one after the other.

        Raises:
            ApiException: the API server refuses one.
        """
        for manifest in manifests:
            self._dynamic.server_side_apply(
                self.resource(manifest["kind"]),
                body=manifest,
                namespace=manifest["metadata"].get("namespace"),
                field_manager=FIELD_MANAGER,
                force_conflicts=True,
            )

    def patch(self, kind: str, name: str, *, namespace: str, change: Manifest) -> None:
        """Merge `change` into an object."""
        self._dynamic.patch(
            self.resource(kind),
            body=change,
            name=name,
            namespace=namespace,
            content_type="application/merge-patch+json",
            field_manager=FIELD_MANAGER,
        )

    def get(self, kind: str, name: str, *, namespace: str | None = None) -> Manifest | None:
        """An object, or None where there is none."""
        try:
            found = self._dynamic.get(self.resource(kind), name=name, namespace=namespace)
        except NotFoundError:
            return None
        return dict(found.to_dict())

    def list(
        self, kind: str, *, namespace: str | None = None, selector: str = ""
    ) -> list[Manifest]:
        """Objects of a kind."""
        found = self._dynamic.get(
            self.resource(kind), namespace=namespace, label_selector=selector or None
        )
        return [dict(item) for item in found.to_dict()["items"]]

    def delete(
        self,
        kind: str,
        name: str,
        *,
        namespace: str | None = None,
        propagation: str = "Background",
    ) -> bool:
        """Ask for an object's deletion; returns whether there was one."""
        try:
            self._dynamic.delete(
                self.resource(kind),
                name=name,
                namespace=namespace,
                body={"propagationPolicy": propagation},
            )
        except NotFoundError:
            return False
        return True

    def log(self, pod: str, *, namespace: str, lines: int | None = None) -> str:
        """The end of a pod's log; empty if it has none."""
        try:
            return str(self.core.read_namespaced_pod_log(pod, namespace, tail_lines=lines))
        except ApiException:
            return ""

    def follow_log(self, pod: str, *, namespace: str) -> Iterator[str]:
        """Lines of a running pod's log until its container ends."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log?follow=true"
        yield from _lines(self._request("GET", path))

    def fetch(self, path: str) -> str:
        """The answer to a GET.

        Raises:
            ApiException: another status than 200.
        """
        return b"".join(self._request("GET", path).stream()).decode()

    def completion(self, service: str, *, namespace: str, body: Mapping[str, Any]) -> Iterator[str]:
        """Stream the words of a completion, asked for through the API server's service proxy."""
        path = f"{proxy('services', service, namespace=namespace)}/v1/completions"

        def ask() -> Iterator[str]:
            lines = _lines(self._request("POST", path, {**body, "stream": True}))
            return chain([next(lines, "")], lines)

        try:
            answer = ask()
        except urllib3.exceptions.ProtocolError:
            # The API server may take up an idle connection to the pod just as it closes it.
            answer = ask()
        for line in answer:
            data = line.removeprefix("data: ")
            if data and data != "[DONE]":
                yield from (choice["text"] for choice in json.loads(data)["choices"])

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> urllib3.BaseHTTPResponse:
        method, url, headers, body, _ = self._api.param_serialize(
            method,
            path,
            header_params={"Accept": "*/*", "Content-Type": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = self._api.call_api(
            method, url, headers, body, _request_timeout=(REQUEST_SECONDS, ANSWER_SECONDS)
        ).response
        if answer.status != 200:
            raise ApiException(status=answer.status, reason=answer.data.decode(errors="replace"))
        return answer


def proxy(kind: str, name: str, *, namespace: str, port: int = 8000) -> str:
    """The API server's path to the HTTP port of a service or pod (`kind` in the plural)."""
    return f"/api/v1/namespaces/{namespace}/{kind}/{name}:{port}/proxy"


def read_manifests(*texts: str) -> list[Manifest]:
    """All objects in texts of YAML."""
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[str]:
    rest = b""
    with closing(response):
        for part in response.stream(amt=None):
            *lines, rest = (rest + part).split(b"\n")
            yield from (line.decode(errors="replace").rstrip("\r") for line in lines)
    if rest:
        yield rest.decode(errors="replace")
