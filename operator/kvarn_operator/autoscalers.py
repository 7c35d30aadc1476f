"""Objects that make another controller the owner of the size, as pure functions of a resource.

Both ask for `values.DEMAND`, the size that the policy calls for, with one replica as the target. So
what they work out is that size, to which they apply the resource's windows and step limits; loading
servers are credited as in the policy itself. A HorizontalPodAutoscaler ignores what differs from
the present size by a tenth or less. The policy asks for no growth as small as that; a large
deployment shrinks by several servers at once, or not at all.
"""

from kvarn_operator import OWNER_LABEL
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.api.autoscaling import Autoscaling
from kvarn_operator.behavior import TOLERANCE
from kvarn_operator.metrics_api.values import DEMAND
from kvarn_operator.observe import SERVER, Manifest
from kvarn_operator.pods import metadata

KINDS = {"hpa": "HorizontalPodAutoscaler", "keda": "ScaledObject"}
"""What owns the size, by mode, where the operator does not."""
POLL_SECONDS = 15
"""How often KEDA asks: as often as a HorizontalPodAutoscaler does."""
FAILURES = 3
"""So often KEDA asks in vain until it counts as an outage."""


def autoscaler(target: KVarNDeployment) -> Manifest | None:
    """The object that owns the size; None where the operator or nobody does."""
    rules = target.spec.autoscaling
    if rules is None or rules.mode not in KINDS:
        return None
    name = target.metadata.name
    spec = _horizontal if rules.mode == "hpa" else _scaled
    return {
        "apiVersion": "autoscaling/v2" if rules.mode == "hpa" else "keda.sh/v1alpha1",
        "kind": KINDS[rules.mode],
        "metadata": metadata(target, name=name, component=SERVER),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            **spec(target, rules),
        },
    }


def shrinks(target: KVarNDeployment, *, told: int | None, current: int) -> bool:
    """Whether the owner of the size will make it smaller than `current`, if `told` stays."""
    rules = target.spec.autoscaling
    if told is None or rules is None:
        return False
    return max(told, rules.min_replicas) < current * (1 - TOLERANCE)


def _horizontal(target: KVarNDeployment, rules: Autoscaling) -> Manifest:
    selector = {"matchLabels": {OWNER_LABEL: target.metadata.name}}
    metric = {
        "metric": {"name": DEMAND, "selector": selector},
        "target": {"type": "AverageValue", "averageValue": "1"},
    }
    return {
        "minReplicas": rules.min_replicas,
        "maxReplicas": rules.max_replicas,
        "behavior": _behavior(rules),
        "metrics": [{"type": "External", "external": metric}],
    }


def _scaled(target: KVarNDeployment, rules: Autoscaling) -> Manifest:
    trigger = {
        "serverAddress": rules.prometheus_address,
        "query": _query(target),
        "threshold": "1",
        # Else no data would mean no demand, and an outage would shrink the deployment.
        "ignoreNullValues": "false",
    }
    return {
        "minReplicaCount": rules.min_replicas,
        "maxReplicaCount": rules.max_replicas,
        "pollingInterval": POLL_SECONDS,
        "fallback": {
            "failureThreshold": FAILURES,
            "replicas": rules.min_replicas,
            "behavior": "currentReplicasIfHigher",
        },
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(rules)}},
        "triggers": [{"type": "prometheus", "metricType": "AverageValue", "metadata": trigger}],
    }


def _query(target: KVarNDeployment) -> str:
    """Prometheus calls our label ``namespace`` otherwise where a target has one of its own."""
    name, namespace = target.metadata.name, target.metadata.namespace
    series = (
        f'{DEMAND}{{{label}="{namespace}",name="{name}"}}'
        for label in ("namespace", "exported_namespace")
    )
    return f"max({' or '.join(series)})"


def _behavior(rules: Autoscaling) -> Manifest:
    return rules.behavior.model_dump(by_alias=True)
