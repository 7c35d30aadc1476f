"""The size of a resource: who writes it, on what evidence, and what is left alone."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from kvarn_operator.config import Config
from tests.apiserver.vllm import Load, Servers, servers
from tests.apiserver.world import World, operator, until, until_passes

Resource = dict[str, Any]
QUICK = {
    "minReplicas": 1,
    "maxReplicas": 3,
    "behavior": {
        "scaleDown": {
            "stabilizationWindowSeconds": 1,
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 1}],
        }
    },
}
ONE, TWO = "127.0.0.2", "127.0.0.3"


@pytest.fixture
async def vllm() -> AsyncIterator[Servers]:
    async with servers() as found:
        yield found


@pytest.fixture
def scaled(world: World, config: Config, vllm: Servers) -> Iterator[World]:
    """A namespace with an operator that finds servers where `vllm` listens."""
    with operator(world.namespace, replace(config, metrics_port=vllm.port)):
        yield world


async def serve(world: World, resource: Resource, *addresses: str, **spec: Any) -> None:
    """The resource with a ready pod at each address."""
    resource["spec"] |= spec
    await world.apply(resource)
    await world.until_deployed()
    for address in addresses:
        await world.start_pod(f"demo-{address[-1]}", address)
    await world.roll_out(ready=len(addresses))


async def grown(world: World) -> dict[str, Any]:
    """The status once it tells of the second server, which is written after the size."""
    await world.until_size(2)

    async def told() -> dict[str, Any]:
        status: dict[str, Any] = (await world.get("kvd"))["status"]
        return status if status.get("lastScale") else {}

    return await until(told)


async def test_waiting_requests_make_it_grow(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    vllm.loads[ONE] = Load(running=64, waiting=40, usage=0.5)

    await serve(scaled, resource, ONE, autoscaling=QUICK, batching={"maxSequences": 64})

    status = await grown(scaled)
    assert status["desiredReplicas"] == 2
    assert status["lastScale"]["reason"] == "RequestsWaiting"
    assert status["pressure"]["limitedBy"] == "waiting"


async def test_idle_servers_make_it_shrink_by_the_one_with_least_to_lose(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    vllm.loads |= {ONE: Load(running=2, usage=0.01), TWO: Load()}
    await serve(scaled, resource, ONE, TWO, autoscaling=QUICK)
    await scaled.kubectl("scale", "deployment/demo", "--replicas=2")

    await scaled.until_size(1)

    costs = [
        int((await scaled.get("pod", name))["metadata"]["annotations"][COST])
        for name in ("demo-2", "demo-3")
    ]
    assert costs[0] > costs[1]


COST = "controller.kubernetes.io/pod-deletion-cost"


async def test_a_restart_under_load_keeps_the_size_and_what_was_learnt(
    world: World, resource: Resource, config: Config, vllm: Servers
) -> None:
    vllm.loads[ONE] = Load(running=64, waiting=40, usage=0.5)
    config = replace(config, metrics_port=vllm.port)
    bounds = {"minReplicas": 1, "maxReplicas": 3}
    with operator(world.namespace, config):
        await serve(world, resource, ONE, autoscaling=bounds, batching={"maxSequences": 64})
        before = (await grown(world))["checkpoint"]
    vllm.loads |= {ONE: Load(running=40, usage=0.5), TWO: Load(running=40, usage=0.5)}

    with operator(world.namespace, config):
        await world.start_pod("demo-3", TWO)
        await world.roll_out(ready=2)
        await world.until_condition("Ready", "True")
        await until_passes(5)

    after = (await world.get("kvd"))["status"]
    assert await world.size() == 2
    assert after["checkpoint"]["grownTime"] == before["grownTime"]
    assert after["checkpoint"]["startSeconds"] >= 0


async def test_a_silent_server_freezes_the_size(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    vllm.loads[ONE] = Load()
    await serve(scaled, resource, ONE, TWO, autoscaling=QUICK)
    await scaled.kubectl("scale", "deployment/demo", "--replicas=2")

    await scaled.until_condition("ScalingActive", "False", reason="MetricsStale")

    assert await scaled.size() == 2
    assert (await scaled.get("kvd"))["status"]["pressure"]["staleReplicas"] == 1


async def test_kubectl_scale_writes_the_size_without_an_autoscaler(
    scaled: World, resource: Resource
) -> None:
    await serve(scaled, resource, replicas=1)

    await scaled.kubectl("scale", "kvd/demo", "--replicas=3")

    await scaled.until_size(3)


async def test_a_size_that_is_stated_is_kept(scaled: World, resource: Resource) -> None:
    await serve(scaled, resource, replicas=2)
    await scaled.until_size(2)

    await scaled.kubectl("scale", "deployment/demo", "--replicas=9")

    await scaled.until_size(2)


async def test_kubectl_scale_is_told_when_an_autoscaler_owns_the_size(
    scaled: World, resource: Resource
) -> None:
    await serve(scaled, resource, autoscaling=QUICK)

    with pytest.raises(Exception, match="replicas has one owner"):
        await scaled.kubectl("scale", "kvd/demo", "--replicas=3")


async def test_a_size_that_nobody_states_is_left_alone(scaled: World, resource: Resource) -> None:
    await serve(scaled, resource)
    await scaled.kubectl("scale", "deployment/demo", "--replicas=4")

    await scaled.patch("kvd", {"spec": {"drainSeconds": 60}})
    await scaled.until_condition("Planned", "True")

    async def edited() -> bool:
        pod = (await scaled.get("deployment"))["spec"]["template"]["spec"]
        return bool(pod["terminationGracePeriodSeconds"] == 80)

    await until(edited)
    assert await scaled.size() == 4


async def test_switching_the_owner_does_not_jump_the_size(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    vllm.loads |= {ONE: Load(usage=0.6), TWO: Load(usage=0.6)}
    await serve(scaled, resource, ONE, TWO, replicas=2)
    await scaled.until_size(2)

    await scaled.patch("kvd", {"spec": {"replicas": None, "autoscaling": QUICK}})

    await scaled.until_condition("ScalingActive", "True", reason="WithinTarget")
    assert await scaled.size() == 2


async def test_replicas_have_one_writer(scaled: World, resource: Resource) -> None:
    await serve(scaled, resource, replicas=2)
    await scaled.until_size(2)

    assert await scaled.owners_of_size() == [("kvarn-operator", "scale")]


async def test_what_vllm_measured_stands_beside_the_plan(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    vllm.loads[ONE] = Load(tokens=8000)
    await serve(scaled, resource, ONE)

    async def measured() -> Resource:
        found: Resource = (await scaled.get("kvd"))["status"].get("measured", {})
        return found

    found = await until(measured)
    planned = (await scaled.get("kvd"))["status"]["plan"]["cacheTokens"]
    assert found["cacheTokens"] == 8000
    assert found["errorPermille"] == round(1000 * (8000 - planned) / planned)
