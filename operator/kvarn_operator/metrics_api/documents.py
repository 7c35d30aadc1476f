"""What the server answers, as JSON: discovery, lists of values, refusals."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kvarn_operator import API_VERSION, GROUP, KIND, OWNER_LABEL, PLURAL
from kvarn_operator.metrics_api.values import METRICS, Value

Document = dict[str, Any]
RESOURCE = f"{PLURAL}.{GROUP}"
"""How ``custom.metrics.k8s.io`` calls our resources."""


@dataclass(frozen=True, slots=True)
class Served:
    """A group and version.

    Attributes:
        prefix: of the names of its resources.
        kind: what they answer.
    """

    group: str
    version: str
    prefix: str
    kind: str

    @property
    def api_version(self) -> str:
        """As in objects."""
        return f"{self.group}/{self.version}"

    @property
    def service_name(self) -> str:
        """Name of the APIService."""
        return f"{self.version}.{self.group}"


EXTERNAL = Served("external.metrics.k8s.io", "v1beta1", "", "ExternalMetricValueList")
CUSTOM = Served("custom.metrics.k8s.io", "v1beta2", f"{RESOURCE}/", "MetricValueList")
ALL = (EXTERNAL, CUSTOM)


def group(served: Served) -> Document:
    """The discovery document of a group."""
    version = {"groupVersion": served.api_version, "version": served.version}
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": served.group,
        "versions": [version],
        "preferredVersion": version,
    }


def resources(served: Served) -> Document:
    """The discovery document of a version."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": served.api_version,
        "resources": [
            {
                "name": f"{served.prefix}{metric}",
                "singularName": "",
                "namespaced": True,
                "kind": served.kind,
                "verbs": ["get"],
            }
            for metric in METRICS
        ],
    }


def external(metric: str, values: Iterable[Value]) -> Document:
    """Values as an ExternalMetricValueList."""
    items = [
        {
            "metricName": metric,
            "metricLabels": value.labels,
            "timestamp": _time(value),
            "value": value.quantity,
        }
        for value in values
    ]
    return _list(EXTERNAL, items)


def custom(metric: str, values: Iterable[Value], *, namespace: str) -> Document:
    """Values as a MetricValueList."""
    items = [
        {
            "describedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": value.name,
                "namespace": namespace,
            },
            "metric": {"name": metric, "selector": {"matchLabels": {OWNER_LABEL: value.name}}},
            "timestamp": _time(value),
            "value": value.quantity,
        }
        for value in values
    ]
    return _list(CUSTOM, items)


def failure(code: int, reason: str, message: str) -> Document:
    """A refusal, in the words of the API server."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }


def _list(served: Served, items: list[Document]) -> Document:
    return {
        "kind": served.kind,
        "apiVersion": served.api_version,
        "metadata": {},
        "items": items,
    }


def _time(value: Value) -> str:
    return value.at.strftime("%Y-%m-%dT%H:%M:%SZ")
