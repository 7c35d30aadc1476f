"""The operator's own metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

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
    "kvarn_pressure_ratio",
    "Mean pressure on the ready replicas; 1 is a full replica.",
    ["namespace", "name"],
    registry=REGISTRY,
)
DEMAND = Gauge(
    "kvarn_demand_tokens",
    "Demand on all ready replicas, in tokens of cache.",
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
    "kvarn_demand_replicas",
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


def tell_demand(namespace: str, name: str, replicas: float | None) -> None:
    """Show the size that the demand calls for, or nothing: an old number would be believed."""
    if replicas is None:
        DEMAND_REPLICAS.remove_by_labels({"namespace": namespace, "name": name})
    else:
        DEMAND_REPLICAS.labels(namespace, name).set(replicas)


def forget(namespace: str, name: str) -> None:
    """Drop the series of a resource that is gone."""
    for gauge in (PRESSURE, DEMAND, DESIRED, DEMAND_REPLICAS):
        gauge.remove_by_labels({"namespace": namespace, "name": name})
    for counter in (SCRAPE_FAILURES, SCALINGS):
        counter.remove_by_labels({"namespace": namespace, "name": name})
