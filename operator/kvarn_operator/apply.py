"""Applying a child: only if it differs, and never one that belongs to something else."""

from typing import Protocol

from kvarn_operator.cluster import ClusterError, RefusedError
from kvarn_operator.observe import Child, Manifest, digest

Applied = dict[tuple[str, str], tuple[str, str]]
"""By (kind, name): digests of what was applied and of what came of it."""


class Applier(Protocol):
    """What is asked of the API server; see `kvarn_operator.cluster.Cluster`."""

    async def get(self, kind: str, *, namespace: str, name: str) -> Manifest | None:
        """An object; None if it is not there."""

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply of a child."""


async def apply(api: Applier, manifest: Manifest, live: Child | None, *, applied: Applied) -> Child:
    """The child after it was made equal to `manifest`.

    Args:
        api: the API server.
        manifest: the child as it should be.
        live: as the watch stream last showed it; None if it did not.
        applied: what was applied before; noted there.

    Raises:
        RefusedError: the API server does not admit it, or it belongs to something else.
        ClusterError: it still belongs to a resource of that name that was deleted.
    """
    kind, metadata = manifest["kind"], manifest["metadata"]
    if live is None:
        found = await api.get(kind, namespace=metadata["namespace"], name=metadata["name"])
        live = Child.read(found, kind=kind) if found else None
    owner = metadata["ownerReferences"][0]
    if live is not None and owner["uid"] not in live.owners:
        if owner["name"] in live.owners.values():
            raise ClusterError(409, f"The {kind} of an earlier {owner['name']} is not gone yet.")
        raise RefusedError(409, _taken(manifest))
    key, wanted = (kind, metadata["name"]), digest(manifest)
    if live is not None and applied.get(key) == (wanted, live.essence):
        return live
    child = Child.read(await api.apply(manifest), kind=kind)
    applied[key] = (wanted, child.essence)
    return child


def _taken(manifest: Manifest) -> str:
    name = manifest["metadata"]["name"]
    return (
        f"A {manifest['kind']} named {name} exists and belongs to something else:"
        " delete it, or give this resource another name."
    )
