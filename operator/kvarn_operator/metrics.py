"""The operator's own metrics."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from kvarn_operator.metrics_api import values

REGISTRY = CollectorRegistry()

PASSES = Counter(
    "kvarn_reconcile",
    "Passes, by how they ended: ok or error.",
    ["result"],
    registry=REGISTRY,
)
PASS_SECONDS = Histogram(
    "kvarn_reconcile_seconds",
    "Duration of a pass.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    registry=REGISTRY,
)
WRITES = Counter(
    "kvarn_api_writes",
    "Write requests to the API server, by kind of object or subresource.",
    ["kind"],
    registry=REGISTRY,
)
SCRAPE_FAILURES = Counter(
    "kvarn_scrape_failures",
    "Reads of a ready pod's metrics that gave nothing.",
    ["namespace", "name"],
    registry=REGISTRY,
)
PRESSURE = Gauge(
    values.PRESSURE,
    "Mean pressure on the ready replicas; 1 is a full replica. Absent if unknown.",
    ["namespace", "name"],
    registry=REGISTRY,
)
DEMAND = Gauge(
    values.TOKENS,
    "Demand on all ready replicas, in tokens of cache; absent if unknown.",
    ["namespace", "name"],
    registry=REGISTRY,
)
DESIRED = Gauge(
    "kvarn_desired_replicas",
    "Replicas that are wanted.",
    ["namespace", "name"],
    registry=REGISTRY,
)
DEMAND_REPLICAS = Gauge(
    values.DEMAND,
    "Size that the demand calls for, where another controller owns the size; absent if unknown.",
    ["namespace", "name"],
    registry=REGISTRY,
)
SCALINGS = Counter(
    "kvarn_scalings",
    "Changes of size by the built-in autoscaler.",
    ["namespace", "name", "direction", "reason"],
    registry=REGISTRY,
)


MEASURED = {
    values.DEMAND: DEMAND_REPLICAS,
    values.TOKENS: DEMAND,
    values.PRESSURE: PRESSURE,
}
"""What autoscalers go by."""


def tell(namespace: str, name: str, numbers: Mapping[str, float]) -> None:
    """Show these of `MEASURED` and no others: an old number would be believed."""
    for metric, gauge in MEASURED.items():
        if metric in numbers:
            gauge.labels(namespace, name).set(numbers[metric])
        else:
            gauge.remove_by_labels({"namespace": namespace, "name": name})


def forget(namespace: str, name: str) -> None:
    """Drop the series of a resource that is gone."""
    tell(namespace, name, {})
    for series in (DESIRED, SCRAPE_FAILURES, SCALINGS):
        series.remove_by_labels({"namespace": namespace, "name": name})
