"""The GPUs that servers run on: what the resource says of them, and what the nodes say."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from kvarn import planner
from kvarn.planner.nodes import VENDOR, WHOLE
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.api.base import memory_bytes
from kvarn_operator.api.spec import Accelerator, Spec
from kvarn_operator.observe import Manifest
from kvarn_operator.pods import PRODUCT_LABEL

MEMORY = ".memory"
_MEBIBYTES = re.compile(r"[1-9][0-9]{0,11}")
NODES_DIFFER = 0.1
"""How much less than labels say the same GPU may have been planned with: a process finds 2 % less,
what drivers say differs by up to 2 %, and error correction takes 6 % of some."""

Products = Mapping[str, Mapping[str, str]]
"""The cluster's GPU products, by ``nvidia.com/gpu.product``, each with labels of its nodes."""


def by_product(nodes: Iterable[Manifest]) -> Products:
    """For each product what its nodes say of their GPUs: of memory the least, which all have.

    What one of them leaves out, another may say, as of MIG's slices that only some are cut into.
    """
    found: dict[str, dict[str, str]] = {}
    for head in sorted((node["metadata"] for node in nodes), key=lambda head: head["name"]):
        if product := head["labels"][PRODUCT_LABEL]:
            _merge(found.setdefault(product, {}), head["labels"])
    return found


def _merge(into: dict[str, str], labels: Mapping[str, str]) -> None:
    for name, value in labels.items():
        if not name.endswith(MEMORY):
            into[name] = into.get(name) or value
        elif _bytes(value):
            into[name] = min(into.get(name, value), value, key=int)


def needs_nodes(spec: Spec) -> bool:
    """Whether the plan depends on what the cluster's nodes say of their GPUs."""
    accelerator = spec.accelerator
    if accelerator.resource == "cpu":
        return False
    if accelerator.product is None:
        return accelerator.memory is None
    return not _is_listed(_name(accelerator, accelerator.product))


def product(target: KVarNDeployment, products: Collection[str]) -> str:
    """The product that pods must land on; empty where none was asked for and memory is stated.

    Raises:
        planner.AcceleratorError: it has to be stated.
    """
    accelerator = target.spec.accelerator
    if accelerator.product or accelerator.memory is not None or accelerator.resource == "cpu":
        return accelerator.product or ""
    # Nodes that come and go must not unsettle what runs already.
    planned = target.status.plan
    if planned is not None and _is_product(planned.accelerator):
        return planned.accelerator
    if len(products) != 1:
        raise planner.AcceleratorError("UnknownAccelerator", _ask_for_product(products))
    return next(iter(products))


def candidates(
    target: KVarNDeployment, product: str, labels: Mapping[str, str]
) -> Iterator[planner.Accelerator]:
    """What the servers run on: as planned before where it may still be that, else as is said.

    Args:
        target: the resource.
        product: that pods must land on.
        labels: what nodes say of it.

    Raises:
        planner.AcceleratorError: the GPU is not known.
    """
    accelerator = target.spec.accelerator
    if accelerator.resource == "cpu":
        yield planner.Accelerator.cpu(memory_bytes=cpu_memory_bytes(target.spec))
        return
    stated = None if accelerator.memory is None else memory_bytes(accelerator.memory)
    name = _name(accelerator, product)
    if not product or _is_listed(name):
        yield planner.Accelerator.find(name, count=accelerator.count, memory_bytes=stated)
        return
    said = _bytes(labels.get(_prefix(accelerator) + MEMORY, ""))
    planned = _planned_bytes(target, product)
    if stated is None and planned and _may_be(planned, said):
        yield _unlisted(accelerator, product, labels, planned)
        if said is None and not _profile(accelerator):
            return  # A pool without nodes gets one when there are pods.
    yield _unlisted(accelerator, product, labels, stated)


def cpu_memory_bytes(spec: Spec) -> int:
    """Memory of a pod without accelerators: its limit, as stated, or the planner's default."""
    stated = spec.engine.resources.limits.get("memory") or spec.accelerator.memory
    return memory_bytes(stated) if stated else planner.Accelerator.cpu().memory_bytes


def _is_product(name: str) -> bool:
    """Whether what was planned for is a product, and neither the CPU nor any GPU of a resource."""
    return name not in ("cpu", VENDOR) and "/" not in name


def _is_listed(name: str) -> bool:
    """Whether the planner's table has such a GPU, or several."""
    try:
        return not planner.Accelerator.find(name).is_cpu
    except planner.AcceleratorError as error:
        return error.reason != "UnknownAccelerator"


def _ask_for_product(products: Collection[str]) -> str:
    if not products:
        return (
            "No node that can be seen has the label nvidia.com/gpu.product: give"
            " accelerator.product or accelerator.memory, or accelerator.resource: cpu."
        )
    known = ", ".join(sorted(products))
    return f"The cluster has several GPU products ({known}): give accelerator.product."


def _unlisted(
    accelerator: Accelerator, product: str, labels: Mapping[str, str], size_bytes: int | None
) -> planner.Accelerator:
    """A GPU that the table lacks, as its nodes' labels say; `size_bytes` overrides its memory."""
    return planner.labelled(
        {PRODUCT_LABEL: product, **labels},
        resource=_prefix(accelerator),
        count=accelerator.count,
        memory_bytes=size_bytes,
    )


def _name(accelerator: Accelerator, product: str) -> str:
    """What is looked for in the planner's table."""
    profile = _profile(accelerator)
    if product and profile and "-MIG-" not in product:
        return f"{product}-MIG-{profile}"
    return product or accelerator.resource.partition("/mig-")[0]


def _prefix(accelerator: Accelerator) -> str:
    """Of the labels that describe it."""
    profile = _profile(accelerator)
    return f"{VENDOR}/mig-{profile}" if profile else WHOLE


def _profile(accelerator: Accelerator) -> str:
    """MIG's profile where memory has to be found; empty for a whole GPU, and one of some memory."""
    if accelerator.memory is not None:
        return ""
    return accelerator.resource.partition("/mig-")[2].removesuffix(".shared")


def _bytes(mebibytes: str) -> int | None:
    """Memory that a label says; None where it says none that a GPU has."""
    return int(mebibytes) << 20 if _MEBIBYTES.fullmatch(mebibytes) else None


def _planned_bytes(target: KVarNDeployment, product: str) -> int | None:
    """Memory of the product in the plan that stands; None where that is none of it."""
    standing = target.status.plan
    account = standing.memory if standing and standing.accelerator == product else []
    return next((line.bytes for line in account if line.name == "total"), None)


def _may_be(planned_bytes: int, said_bytes: int | None) -> bool:
    """Whether what was planned for may be a GPU of which labels say this, or nothing."""
    return said_bytes is None or 0 <= 1 - planned_bytes / said_bytes <= NODES_DIFFER
