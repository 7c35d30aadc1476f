"""What all pods of a resource share: names, labels, security, the model's volume."""

from collections.abc import Collection
from typing import Any

from kvarn_operator import API_VERSION, KIND, OWNER_LABEL
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.config import Config
from kvarn_operator.observe import COMPONENT_LABEL, Manifest
from kvarn_operator.overlay import merge
from kvarn_operator.source import HUB_CACHE, MODELS, Source

USER = 65532
"""``nonroot`` of distroless images; any but root would do."""
PRODUCT_LABEL = "nvidia.com/gpu.product"


def selector(target: KVarNDeployment, *, component: str) -> dict[str, str]:
    """The labels that pick out pods of one component; they never change."""
    return {OWNER_LABEL: target.metadata.name, COMPONENT_LABEL: component}


def labels(target: KVarNDeployment, *, component: str) -> dict[str, str]:
    """The labels of a child."""
    return {
        "app.kubernetes.io/name": "kvarn-serving",
        "app.kubernetes.io/instance": target.metadata.name,
        "app.kubernetes.io/managed-by": "kvarn-operator",
        **selector(target, component=component),
    }


def metadata(target: KVarNDeployment, *, name: str, component: str) -> Manifest:
    """Metadata of a child: it goes when `target` goes."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": target.metadata.name,
        "uid": target.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": name,
        "namespace": target.metadata.namespace,
        "labels": labels(target, component=component),
        "ownerReferences": [owner],
    }


def image(target: KVarNDeployment, config: Config) -> str:
    """The serving image."""
    on_cpu = target.spec.accelerator.resource == "cpu"
    default = config.serving_cpu_image if on_cpu else config.serving_image
    return target.spec.engine.image or default


def pod_security() -> Manifest:
    """What Pod Security ``restricted`` asks of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        # Changing the owner of every file of a large model takes minutes.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """What it asks of a container, and a root file system that nobody writes to."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def node_selector(product: str | None) -> dict[str, str]:
    """Nodes with this GPU; any node if there is none."""
    return {PRODUCT_LABEL: product} if product else {}


def tolerations(target: KVarNDeployment) -> list[Manifest]:
    """GPU nodes are often kept free of everything else by this taint."""
    resource = target.spec.accelerator.resource
    if resource == "cpu":
        return []
    return [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}]


def hub_environment(target: KVarNDeployment, config: Config) -> list[Manifest]:
    """What a download from the hub needs to know."""
    model = target.spec.model
    if not model.source.startswith("hf://"):
        return []
    environment: list[Manifest] = [{"name": "HF_HOME", "value": HUB_CACHE}]
    if config.hub_endpoint:
        environment.append({"name": "HF_ENDPOINT", "value": config.hub_endpoint})
    if secret := model.token_secret:
        reference = {"secretKeyRef": {"name": secret.name, "key": secret.key}}
        environment.append({"name": "HF_TOKEN", "valueFrom": reference})
    return environment


def environment(
    target: KVarNDeployment, ours: list[Manifest], *, only: Collection[str] | None = None
) -> list[Manifest]:
    """Our variables and those of ``engine.env``, which displace them.

    Args:
        target: the resource.
        ours: our own.
        only: names, in capitals, of what is taken of ``engine.env``; all if None.
    """
    theirs = [
        variable.model_dump(by_alias=True, exclude_none=True)
        for variable in target.spec.engine.env
        if only is None or variable.name.upper() in only
    ]
    return list(merge({"env": ours}, {"env": theirs})["env"])


def volumes(target: KVarNDeployment, source: Source) -> list[Manifest]:
    """The model's volume, and room to write in."""
    return [_model_volume(target, source), {"name": "tmp", "emptyDir": {}}]


def mounts(source: Source) -> list[Manifest]:
    """Where `volumes` are seen in the container."""
    model: Manifest = {"name": "model", "mountPath": MODELS, "readOnly": True}
    if source.kind == "hf":
        model = {"name": "model", "mountPath": HUB_CACHE}
    return [model, {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - the pod's own emptyDir


def _model_volume(target: KVarNDeployment, source: Source) -> Manifest:
    return {"name": "model"} | _volume_source(target, source)


def _volume_source(target: KVarNDeployment, source: Source) -> dict[str, Any]:
    if source.kind == "pvc":
        return {"persistentVolumeClaim": {"claimName": source.place, "readOnly": True}}
    if source.kind == "host":
        return {"hostPath": {"path": source.place, "type": "Directory"}}
    cache = target.spec.model.cache
    if cache is not None and cache.claim_name:
        return {"persistentVolumeClaim": {"claimName": cache.claim_name}}
    limit = {"sizeLimit": str(cache.size_limit)} if cache and cache.size_limit else {}
    return {"emptyDir": limit}
