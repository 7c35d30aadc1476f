"""Where nothing is to be done, nothing is written."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from kvarn_operator.config import Config
from tests.apiserver.vllm import Load, Servers, servers
from tests.apiserver.world import World, operator, until_passes

ADDRESS = "127.0.0.2"


@pytest.fixture
async def vllm() -> AsyncIterator[Servers]:
    async with servers() as found:
        found.loads[ADDRESS] = Load()
        yield found


async def settle(world: World, resource: dict[str, Any]) -> None:
    """Bring a resource with one idle server to rest."""
    resource["spec"]["autoscaling"] = {"minReplicas": 1, "maxReplicas": 2}
    await world.apply(resource)
    await world.until_deployed()
    await world.start_pod("demo-1", ADDRESS)
    await world.roll_out()
    await world.until_condition("Ready", "True")
    await world.until_condition("ScalingActive", "True", reason="WithinTarget")


async def test_many_looks_at_a_resource_at_rest_write_nothing(
    world: World, resource: dict[str, Any], config: Config, vllm: Servers
) -> None:
    with operator(world.namespace, replace(config, metrics_port=vllm.port)):
        await settle(world, resource)
        await until_passes(3)
        before = await world.versions()

        await until_passes(10)

        assert await world.versions() == before


async def test_a_restart_of_the_operator_writes_nothing(
    world: World, resource: dict[str, Any], config: Config, vllm: Servers
) -> None:
    config = replace(config, metrics_port=vllm.port)
    with operator(world.namespace, config):
        await settle(world, resource)
        await until_passes(3)
    before = await world.versions()

    with operator(world.namespace, config):
        await until_passes(5)

    assert await world.versions() == before
