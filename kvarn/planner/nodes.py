"""Accelerators by what a cluster says of them: node labels, and devices of resource slices.

Labels are those of NVIDIA's GPU feature discovery, `nvidia.com/gpu.product` and so on; devices are
those of its driver for dynamic resource allocation (`gpu.nvidia.com`).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kvarn.planner.accelerators import Accelerator
from kvarn.planner.config_file import ConfigView
from kvarn.planner.errors import AcceleratorError

VENDOR = "nvidia.com"
WHOLE = f"{VENDOR}/gpu"
FOUND = 0.98
"""Of the memory that the driver states, what a process finds."""
UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}


def described(
    manifest: Mapping[str, Any], *, resource: str | None = None, count: int = 1
) -> Accelerator:
    """`count` accelerators of a Node or of a ResourceSlice, as `kubectl get … -o json` prints it.

    Args:
        manifest: the object.
        resource: of a Node, what pods ask for; `nvidia.com/gpu` if absent.
        count: how many of them.

    Raises:
        AcceleratorError: it is neither, says too little, or has no such resource.
    """
    view = ConfigView(manifest)
    if view.word("kind") == "Node":
        labels = view.part("metadata").mapping("labels")
        return labelled(labels, resource=WHOLE if resource is None else resource, count=count)
    if view.word("kind") == "ResourceSlice":
        if resource is not None:
            raise AcceleratorError(
                "InvalidAccelerator",
                f"A ResourceSlice says itself what its devices are; leave {resource} out.",
            )
        devices = [each for each in view.part("spec").sequence("devices") if isinstance(each, dict)]
        return resource_device(next(iter(devices), {}), count=count)
    raise AcceleratorError(
        "InvalidAccelerator",
        f"The manifest's kind is {manifest.get('kind')}; give one Node or ResourceSlice.",
    )


def labelled(
    labels: Mapping[str, str],
    *,
    resource: str = WHOLE,
    count: int = 1,
    memory_bytes: int | None = None,
) -> Accelerator:
    """`count` of a node's accelerators, by its labels.

    Args:
        labels: of the node.
        resource: what pods ask for: `nvidia.com/gpu`, which under MIG's single strategy means
            instances of one profile, or `nvidia.com/mig-3g.20gb` under the mixed strategy.
        count: how many of them.
        memory_bytes: that a process finds in a GPU which our table lacks, if not what labels say.

    Raises:
        AcceleratorError: the resource is no GPU, or the labels name no product, or one that nobody
            knows without its memory.
    """
    profile, view = _profile(resource), ConfigView(labels)
    product = view.word(f"{resource}.product") or view.word(f"{WHOLE}.product")
    if not product:
        raise AcceleratorError(
            "UnknownAccelerator",
            f"The node has no label {resource}.product; install GPU feature discovery, or state"
            " the product.",
        )
    if memory_bytes is None:
        memory_bytes = _found(_quantity(f"{view.word(f'{resource}.memory')}Mi"))
    if profile:
        product = f"{product.partition('-MIG-')[0]}-MIG-{profile}"
    major, minor = (view.word(f"{WHOLE}.compute.{part}") for part in ("major", "minor"))
    return _named(product, memory_bytes, _capability(f"{major}.{minor}"), count)


def resource_device(device: Mapping[str, Any], *, count: int = 1) -> Accelerator:
    """`count` accelerators like a device of a `ResourceSlice`.

    Raises:
        AcceleratorError: it names no product, or one that nobody knows without its memory.
    """
    view = ConfigView(device)
    basic = view.part("basic") if "basic" in view else view
    attributes = basic.part("attributes")
    product = attributes.part("productName").word("string")
    if not product:
        raise AcceleratorError(
            "UnknownAccelerator",
            f"The device {view.word('name')} has no attribute productName; state the product.",
        )
    if profile := attributes.part("profile").word("string"):
        product = f"{product}-MIG-{profile}"
    capacity = basic.part("capacity").part("memory")
    capability = _capability(attributes.part("cudaComputeCapability").word("version"))
    return _named(product, _found(_quantity(capacity.word("value"))), capability, count)


def _named(product: str, memory_bytes: int | None, capability: float, count: int) -> Accelerator:
    """The product by our table; by what is said of it where it is not in it."""
    try:
        return Accelerator.find(product, count=count)
    except AcceleratorError:
        if memory_bytes is None:
            raise
    known = Accelerator.find(product.partition("-MIG-")[0], memory_bytes=memory_bytes)
    return replace(
        known,
        product=product,
        memory_bytes=memory_bytes,
        capability=known.capability or capability,
        count=count,
    )


def _capability(version: str) -> float:
    """The compute capability in `9.0` or `9.0.0`; 0 where it is none."""
    found = re.match(r"\d{1,2}\.\d", version)
    return float(found[0]) if found else 0.0


def _profile(resource: str) -> str:
    """MIG's profile; empty for a whole GPU."""
    kind, _, profile = resource.partition("/mig-")
    if resource != WHOLE and not (profile and kind == VENDOR):
        raise AcceleratorError(
            "InvalidAccelerator",
            f"{resource} is no resource that is planned for; give {WHOLE}, or a MIG profile such as"
            f" {VENDOR}/mig-3g.20gb.",
        )
    return profile


def _found(stated_bytes: int | None) -> int | None:
    """Of the memory that the driver states, what a process finds."""
    return None if stated_bytes is None else int(FOUND * stated_bytes)


def _quantity(text: str) -> int | None:
    """Bytes of a Kubernetes quantity in binary units; None where it is none."""
    found = re.fullmatch(r"(\d{1,18})(Ki|Mi|Gi|Ti|)", text)
    return int(found[1]) * UNITS[found[2]] if found else None
