"""Strategic merge of a pod template with an overlay, as ``kubectl patch`` does it.

Maps merge, lists of named things merge by name, other lists are replaced, null removes. ``$patch``
in a map or in a named item says ``replace`` or ``delete``, which ``kubectl apply`` lets through,
unlike null; in an item without a name, ``replace`` is about the list.
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


_HANDLERS = frozenset({"exec", "grpc", "httpGet", "sleep", "tcpSocket"})
_ALTERNATIVES = {
    **dict.fromkeys(("startupProbe", "readinessProbe", "livenessProbe"), _HANDLERS),
    **dict.fromkeys(("preStop", "postStart"), _HANDLERS),
    "env": frozenset({"value", "valueFrom"}),
}
"""Of these keys, a map has one: it displaces the others."""
_PATCH = "$patch"
_DIRECTIVES = ("replace", "delete", "merge")


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`base` with `overlay` laid on it; neither is changed."""
    below = {} if _says(overlay, "replace") else base
    merged = dict(below)
    for key, value in overlay.items():
        if value is None or _says(value, "delete"):
            merged.pop(key, None)
        elif key != _PATCH or value not in _DIRECTIVES:
            merged[key] = _combine(key, below.get(key), value)
    return merged


def _says(value: Any, directive: str) -> bool:
    return isinstance(value, dict) and value.get(_PATCH) == directive


def _combine(field: str, below: Any, above: Any) -> Any:
    if isinstance(above, dict):
        return _merge_map(field, below if isinstance(below, dict) else {}, above)
    if not isinstance(above, list):
        return above
    if isinstance(below, list) and field in _KEYS:
        return _merge_list(field, below, above)
    items = (item for item in above if not _says(item, "delete") and item != {_PATCH: "replace"})
    return [merge({}, item) if isinstance(item, dict) else item for item in items]


def _merge_map(field: str, below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """The two merged, where one of several alternatives above leaves no other of below."""
    either = _ALTERNATIVES.get(field, frozenset())
    if field == "volumes":
        either = frozenset(below | above) - {"name", _PATCH}
    if any(above.get(key) is not None for key in either):
        below = {key: value for key, value in below.items() if key in above or key not in either}
    return merge(below, above)


def _merge_list(field: str, below: list[Any], above: list[Any]) -> list[Any]:
    """Items of `below`, merged with those of the same name above; new ones at the end."""
    name = _KEYS[field]
    is_whole = any(_says(item, "replace") and name not in item for item in above)
    merged = {} if is_whole else {item[name]: item for item in below}
    for item in above:
        if _says(item, "delete"):
            merged.pop(item[name], None)
        elif name in item:
            merged[item[name]] = _merge_map(field, merged.get(item[name], {}), item)
    return list(merged.values())
