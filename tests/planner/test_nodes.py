"""Accelerators by node labels and by devices of resource slices."""

from typing import Any

import pytest

from kvarn.planner import Accelerator, AcceleratorError
from kvarn.planner.nodes import described, labelled, resource_device
from tests.planner.builders import JUNK, places, with_junk

GIB = 1 << 30
WHOLE = {
    "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3",
    "nvidia.com/gpu.memory": "81559",
    "nvidia.com/gpu.count": "8",
}
MIXED = WHOLE | {
    "nvidia.com/mig.strategy": "mixed",
    "nvidia.com/mig-3g.40gb.product": "NVIDIA-H100-80GB-HBM3-MIG-3g.40gb",
    "nvidia.com/mig-3g.40gb.memory": "40448",
}


def test_a_known_product_has_the_memory_that_a_process_finds() -> None:
    assert labelled(WHOLE, count=2) == Accelerator.find("H100", count=2)


def test_an_unknown_product_has_nearly_what_its_label_says() -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-Z1", "nvidia.com/gpu.memory": "100000"}

    assert labelled(labels).memory_bytes == pytest.approx(100000 << 20, rel=0.03)


@pytest.mark.parametrize(("major", "minor", "found"), [("7", "0", 7.0), ("12", "1", 12.1)])
def test_a_node_says_what_an_unknown_product_can_compute(
    major: str, minor: str, found: float
) -> None:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-Z1",
        "nvidia.com/gpu.memory": "100000",
        "nvidia.com/gpu.compute.major": major,
        "nvidia.com/gpu.compute.minor": minor,
    }

    assert labelled(labels).capability == found


@pytest.mark.parametrize(("version", "found"), [("7.0.0", 7.0), ("10.3", 10.3), ("new", 0.0)])
def test_so_does_a_device_of_a_resource_slice(version: str, found: float) -> None:
    novel = device(productName="NVIDIA Z1")
    novel["attributes"]["cudaComputeCapability"] = {"version": version}

    assert resource_device(novel).capability == found


def test_under_the_single_strategy_a_gpu_is_an_instance() -> None:
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb",
        "nvidia.com/gpu.memory": "4864",
        "nvidia.com/mig.strategy": "single",
    }

    assert labelled(labels).memory_bytes / GIB == pytest.approx(4.75, rel=0.02)


def test_under_the_mixed_strategy_the_resource_names_the_profile() -> None:
    found = labelled(MIXED, resource="nvidia.com/mig-3g.40gb")

    assert found.product == "H100-80GB-HBM3-MIG-3g.40gb"
    assert labelled(WHOLE, resource="nvidia.com/mig-3g.40gb") == found


@pytest.mark.parametrize(
    "resource", ["nvidia.com/mig-", "nvidia.com/gpu.shared", "amd.com/gpu", "cpu", ""]
)
def test_what_is_no_gpu_and_no_profile_is_refused(resource: str) -> None:
    with pytest.raises(AcceleratorError, match=r"give nvidia\.com/gpu, or a MIG profile"):
        described(NODE, resource=resource)


@pytest.mark.parametrize("labels", [{}, {"nvidia.com/gpu.memory": "81559"}])
def test_labels_without_a_product_say_what_is_missing(labels: dict[str, str]) -> None:
    with pytest.raises(AcceleratorError, match=r"no label nvidia\.com/gpu\.product; install GPU"):
        labelled(labels)


def device(**attributes: str) -> dict[str, Any]:
    """A device as NVIDIA's driver for dynamic resource allocation publishes it."""
    return {
        "name": "gpu-0",
        "attributes": {name: {"string": value} for name, value in attributes.items()},
        "capacity": {"memory": {"value": "81559Mi"}},
    }


def test_a_device_of_a_resource_slice_is_found_by_its_product() -> None:
    whole = resource_device(device(productName="NVIDIA H100 80GB HBM3", type="gpu"))
    part = resource_device({"basic": device(productName="NVIDIA H200", profile="1g.18gb")})

    assert whole == Accelerator.find("H100")
    assert part == Accelerator.find("NVIDIA-H200-MIG-1g.18gb")


def test_an_unknown_device_has_nearly_the_capacity_that_it_states() -> None:
    found = resource_device(device(productName="NVIDIA Z1"), count=4)

    assert found.memory_bytes == pytest.approx(81559 << 20, rel=0.03)
    assert found.count == 4


def test_a_device_without_a_product_is_named() -> None:
    with pytest.raises(AcceleratorError, match="gpu-0 has no attribute productName"):
        resource_device(device())


def test_a_manifest_is_a_node_or_a_slice() -> None:
    node = {"kind": "Node", "metadata": {"labels": WHOLE}}
    devices = [device(productName="NVIDIA H100 80GB HBM3")]

    assert described(node) == described({"kind": "ResourceSlice", "spec": {"devices": devices}})
    with pytest.raises(AcceleratorError, match="kind is Pod; give one Node"):
        described({"kind": "Pod"})


def test_a_slice_has_no_resource_to_choose_from() -> None:
    with pytest.raises(AcceleratorError, match=r"leave nvidia\.com/gpu out"):
        described(SLICE, resource="nvidia.com/gpu")


NODE = {"kind": "Node", "metadata": {"labels": WHOLE}}
SLICE = {"kind": "ResourceSlice", "spec": {"devices": [device(productName="NVIDIA Z1")]}}


@pytest.mark.parametrize("junk", JUNK, ids=repr)
@pytest.mark.parametrize(
    ("manifest", "place"),
    [(manifest, place) for manifest in (NODE, SLICE) for place in places(manifest)],
)
def test_one_broken_value_gives_an_accelerator_or_a_sentence(
    manifest: dict[str, Any], place: tuple[Any, ...], junk: Any
) -> None:
    assert outcome(with_junk(manifest, place, junk)).endswith(".")


def outcome(manifest: dict[str, Any]) -> str:
    """The sentence that is said, or how much memory there is."""
    try:
        return f"{described(manifest).memory_bytes} bytes."
    except AcceleratorError as error:
        return error.message


def test_a_product_of_more_memory_than_there_is_has_to_be_known() -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-Z1", "nvidia.com/gpu.memory": "9" * 400}

    with pytest.raises(AcceleratorError, match="No GPU is known as NVIDIA-Z1"):
        labelled(labels)
