"""The operator, with the rights of its manifests, on what nodes say of their GPUs."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kvarn_operator import cluster
from kvarn_operator.config import Config
from tests.apiserver.world import World, operator

NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {
        "name": "node-with-z1",
        "labels": {
            "nvidia.com/gpu.product": "NVIDIA-Z1",
            "nvidia.com/gpu.memory": "49152",
            "nvidia.com/gpu.compute.major": "9",
            "nvidia.com/gpu.compute.minor": "0",
        },
    },
}


@pytest.fixture
async def with_node(world: World) -> AsyncIterator[World]:
    """The namespace in a cluster that has one node, with a GPU that no table knows."""
    await world.apply(NODE)
    yield world
    await world.kubectl("delete", "node", "node-with-z1", "--ignore-not-found")


async def test_a_gpu_that_its_node_describes_is_planned_for_and_stays_so_without_the_node(
    with_node: World,
    resource: dict[str, Any],
    config: Config,
    as_operator: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "PRODUCTS_SECONDS", 0.0)
    resource["spec"] |= {"accelerator": {}, "cache": {"format": "auto"}}

    with operator(with_node.namespace, config):
        await with_node.apply(resource)
        await with_node.until_condition("Planned", "True")
        deployed = await with_node.until_deployed()
        before = (await with_node.get("kvd"))["status"]["plan"]
        await with_node.kubectl("delete", "node", "node-with-z1")
        await with_node.patch("kvd", {"spec": {"replicas": 2}})
        await with_node.until_size(2)
        await with_node.until_condition("Planned", "True")

    after = await with_node.get("deployment")
    assert before["accelerator"] == "NVIDIA-Z1"
    assert after["spec"]["template"] == deployed["spec"]["template"]
    assert (await with_node.get("kvd"))["status"]["plan"] == before
