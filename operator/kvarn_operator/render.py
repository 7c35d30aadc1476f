"""The children of a resource, as pure functions of the resource and its plan.

Equal input gives equal bytes, whatever the operator's version: what changes here rolls pods.
"""

from kvarn_operator.api import KVarNDeployment
from kvarn_operator.api.base import amount
from kvarn_operator.config import Config
from kvarn_operator.gpus import cpu_memory_bytes
from kvarn_operator.observe import CONTAINERS, SERVER, TEMPLATE_HASH, Manifest, digest
from kvarn_operator.overlay import merge
from kvarn_operator.planning import Planned
from kvarn_operator.pods import (
    container_security,
    environment,
    hub_environment,
    image,
    labels,
    metadata,
    mounts,
    node_selector,
    pod_security,
    selector,
    tolerations,
    volumes,
)
from kvarn_operator.source import Source

PORT = 8000
PRESTOP_SECONDS = 5
"""How long a stopping pod goes on as if nothing were, until no Service sends it requests."""
EXIT_SECONDS = 15
"""What the server may take to end after it has drained, before it is killed."""
STARTUP_PROBE_SECONDS = 2
NODE_SECONDS = 1200
"""How long it may take until there is a node, with a driver and the image."""
LOAD_SECONDS = 600
LOAD_SECONDS_PER_GIB = 20
"""A start may take ten minutes, and download and load 50 MiB of weights a second."""


def children(
    target: KVarNDeployment, planned: Planned, config: Config, *, stuck: bool = False
) -> tuple[Manifest, ...]:
    """The objects that serve `target`; the one that the API server may refuse comes first."""
    servers = deployment(target, planned, config, stuck=stuck)
    return (servers, service(target), disruption_budget(target))


def deployment(
    target: KVarNDeployment, planned: Planned, config: Config, *, stuck: bool = False
) -> Manifest:
    """The servers. It has no ``replicas``: their owner writes the scale subresource.

    Args:
        target: the resource.
        planned: what the servers are started with.
        config: the operator's settings.
        stuck: whether a roll-out waits for what only failed servers hold.
    """
    rollout = target.spec.rollout
    spec = {
        "selector": {"matchLabels": selector(target, component=SERVER)},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {
                "maxSurge": rollout.max_surge,
                # With it, the Deployment's controller removes first what is not ready.
                "maxUnavailable": "100%" if stuck else rollout.max_unavailable,
            },
        },
        "revisionHistoryLimit": 3,
        # It counts from the creation on: the last server drains, a node comes, the model loads.
        "progressDeadlineSeconds": grace_seconds(target) + NODE_SECONDS + load_seconds(planned),
        "template": template(target, planned, config),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(target, name=target.metadata.name, component=SERVER),
        "spec": spec,
    }


def service(target: KVarNDeployment) -> Manifest:
    """The address of the servers."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(target, name=target.metadata.name, component=SERVER),
        "spec": {
            "selector": selector(target, component=SERVER),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def disruption_budget(target: KVarNDeployment) -> Manifest:
    """A node may be emptied one server at a time; one that never got ready is in nobody's way."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(target, name=target.metadata.name, component=SERVER),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(target, component=SERVER)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def template(target: KVarNDeployment, planned: Planned, config: Config) -> Manifest:
    """The pod template, overlaid with the user's, with a hash of all that in an annotation."""
    base = {
        "metadata": {"labels": labels(target, component=SERVER)},
        "spec": _pod(target, planned, config),
    }
    merged = merge(base, target.spec.pod_template or {})
    # Without these the Deployment would not find its own pods.
    merged = merge(merged, {"metadata": {"labels": labels(target, component=SERVER)}})
    return merge(merged, {"metadata": {"annotations": {TEMPLATE_HASH: digest(merged)}}})


def load_seconds(planned: Planned) -> int:
    """How long a start may take before it counts as failed."""
    gib = planned.shape.weight_bytes // (1 << 30)
    return min(LOAD_SECONDS + LOAD_SECONDS_PER_GIB * gib, 3 * 3600)


def grace_seconds(target: KVarNDeployment) -> int:
    """How long a stopping pod may take in all, before it is killed."""
    return PRESTOP_SECONDS + target.spec.drain_seconds + EXIT_SECONDS


def arguments(target: KVarNDeployment, planned: Planned) -> list[str]:
    """Flags of the launcher."""
    spec = target.spec
    revision = ("--revision", spec.model.revision) if spec.model.revision else ()
    return [
        *("--model", Source.parse(spec.model.source).model),
        *revision,
        *("--served-model-name", spec.model.served_name or target.metadata.name),
        *("--host", "0.0.0.0"),  # noqa: S104 - the pod's own address
        *("--port", str(PORT)),
        *planned.plan.vllm_flags(),
        *("--shutdown-timeout", str(spec.drain_seconds)),
        *spec.engine.args,
    ]


def _pod(target: KVarNDeployment, planned: Planned, config: Config) -> Manifest:
    source = Source.parse(target.spec.model.source)
    memory = {"medium": "Memory", "sizeLimit": _shared_memory(target)}
    return {
        "automountServiceAccountToken": False,
        # A Service called vllm would put VLLM_PORT and the like into the environment.
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "terminationGracePeriodSeconds": grace_seconds(target),
        "nodeSelector": node_selector(planned.product),
        "tolerations": tolerations(target),
        "volumes": [*volumes(target, source), {"name": "shm", "emptyDir": memory}],
        "containers": [_container(target, planned, config)],
    }


def _container(target: KVarNDeployment, planned: Planned, config: Config) -> Manifest:
    source = Source.parse(target.spec.model.source)
    return {
        "name": CONTAINERS[SERVER],
        "image": image(target, config),
        "imagePullPolicy": target.spec.engine.image_pull_policy,
        "command": ["python3", "-m", "kvarn.engine.launcher"],
        "args": arguments(target, planned),
        "env": _environment(target, config),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": _resources(target),
        "securityContext": container_security(),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRESTOP_SECONDS}}},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [*mounts(source), {"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108
        **_probes(planned),
    }


def _environment(target: KVarNDeployment, config: Config) -> list[Manifest]:
    ours = [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108 - the pod's own emptyDir
        {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
        *hub_environment(target, config),
    ]
    return environment(target, ours)


def _probes(planned: Planned) -> Manifest:
    """Start-up may take as long as loading does; a busy server may be slow to answer."""
    starts = load_seconds(planned) // STARTUP_PROBE_SECONDS
    return {
        "startupProbe": _probe(every=STARTUP_PROBE_SECONDS, timeout=2, failures=starts),
        "readinessProbe": _probe(every=5, timeout=3, failures=3),
        "livenessProbe": _probe(every=10, timeout=10, failures=6),
    }


def _probe(*, every: int, timeout: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": "/health", "port": "http"},
        "periodSeconds": every,
        "timeoutSeconds": timeout,
        "failureThreshold": failures,
    }


def _resources(target: KVarNDeployment) -> Manifest:
    accelerator, stated = target.spec.accelerator, target.spec.engine.resources
    requests: dict[str, int | str] = {}
    limits: dict[str, int | str] = {accelerator.resource: accelerator.count}
    if accelerator.resource == "cpu":
        memory = str(cpu_memory_bytes(target.spec))
        cpu = min(1, stated.limits.get("cpu", 1), key=amount)
        requests, limits = {"cpu": cpu, "memory": memory}, {"memory": memory}
    return {
        kind: {name: str(value) for name, value in {**ours, **theirs}.items()}
        for kind, ours, theirs in (
            ("requests", requests, stated.requests),
            ("limits", limits, stated.limits),
        )
        if ours or theirs
    }


def _shared_memory(target: KVarNDeployment) -> str:
    """Room for the messages between the processes of one model, more for more of them."""
    accelerator = target.spec.accelerator
    return "256Mi" if accelerator.resource == "cpu" else f"{accelerator.count}Gi"
