"""Strategic merge of a pod template with an overlay, as ``kubectl patch`` does it.

Maps merge, lists of named things merge by name, other lists are replaced, null removes.
"""

from typing import Any

_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
"""``patchMergeKey`` of the lists in a PodTemplate, from the Kubernetes API types."""


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`base` with `overlay` laid on it; neither is changed."""
    merged = dict(base)
    for key, value in overlay.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _combine(key, base.get(key), value)
    return merged


def _combine(key: str, below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return merge(below, above)
    if isinstance(above, dict):
        return merge({}, above)
    if isinstance(below, list) and isinstance(above, list) and key in _KEYS:
        return _merge_list(_KEYS[key], below, above)
    return above


def _merge_list(name: str, below: list[Any], above: list[Any]) -> list[Any]:
    """Items of `below`, merged with those of the same `name` above; new ones at the end."""
    merged = {item[name]: item for item in below}
    for item in above:
        if item.get("$patch") == "delete":
            merged.pop(item[name], None)
        else:
            merged[item[name]] = merge(merged.get(item[name], {}), item)
    return list(merged.values())
