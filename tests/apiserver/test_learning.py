"""A start that ran out of memory is planned again, by this resource and by others."""

import json
from dataclasses import replace
from typing import Any

from kvarn_operator.config import Config
from tests.apiserver.world import World, operator, until
from tests.operator_logic.builders import QWEN3_8B

MISSING_BYTES = 256 << 20
HASH = "serving.kvarn.dev/template-hash"


def tight(resource: dict[str, Any], name: str = "demo") -> dict[str, Any]:
    """A model on a GPU that it nearly fills."""
    spec = resource["spec"] | {
        "model": {"source": "hf://Qwen/Qwen3-8B", "shape": QWEN3_8B},
        "accelerator": {"product": "NVIDIA-L4"},
        "cache": {"format": "fp8"},
    }
    return resource | {"metadata": resource["metadata"] | {"name": name}, "spec": spec}


async def fail(world: World, pod: str) -> None:
    """A server of the present template that finds less memory than was planned."""
    memory = (await world.get("kvd"))["status"]["plan"]["memory"]
    cache = next(int(line["bytes"]) for line in memory if line["name"] == "cache")
    said = {
        "reason": "ContextTooLong",
        "message": "A sequence needs more cache than there is.",
        "numbers": {"available_bytes": cache - MISSING_BYTES},
    }
    container = {
        "name": "server",
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "message": json.dumps(said)}},
        "restartCount": 1,
        "image": "x",
        "imageID": "x",
        "ready": False,
    }
    await world.start_pod(pod, "127.0.0.2", ready=False, containerStatuses=[container])


async def template(world: World) -> str:
    """Hash of the Deployment's pod template."""
    metadata = (await world.get("deployment"))["spec"]["template"]["metadata"]
    return str(metadata["annotations"][HASH])


async def until_unavailable(world: World, most: int | str) -> None:
    """Wait until so many pods may be missing during a roll-out."""

    async def so_many() -> bool:
        strategy = (await world.get("deployment"))["spec"]["strategy"]["rollingUpdate"]
        return bool(strategy["maxUnavailable"] == most)

    await until(so_many, say=f"maxUnavailable did not become {most}")


async def test_a_corrected_start_may_take_the_accelerators_of_the_failed_one(
    running: World, resource: dict[str, Any]
) -> None:
    """The Deployment's controller removes failed pods first, once it may; it is not here."""
    await running.apply(tight(resource))
    await running.until_deployed()
    before = await template(running)
    await until_unavailable(running, 0)

    await fail(running, "demo-1")

    await until_unavailable(running, "100%")
    corrected = await template(running)
    assert corrected != before
    await running.kubectl("delete", "pod", "demo-1", "--grace-period=0", "--force")
    await running.start_pod("demo-2", "127.0.0.3")
    await until_unavailable(running, 0)
    assert await template(running) == corrected


async def planned_by(world: World, name: str) -> set[str]:
    """Lines of the memory account of a plan, once there is one."""

    async def lines() -> set[str]:
        plan = (await world.get("kvd", name)).get("status", {}).get("plan", {})
        return {line["name"] for line in plan.get("memory", ())}

    return await until(lines)


async def test_a_start_without_memory_is_corrected_and_its_neighbours_learn_from_it(
    world: World, config: Config, resource: dict[str, Any]
) -> None:
    """Those of another namespace do not: who may write a status there may write nothing here."""
    elsewhere = replace(world, namespace=f"{world.namespace}-elsewhere")
    await elsewhere.create()
    with operator(f"{world.namespace} {elsewhere.namespace}", config):
        await world.apply(tight(resource))
        await world.until_deployed()
        await world.until_condition("MemoryFits", "True")
        before = await template(world)

        await fail(world, "demo-1")

        async def corrected() -> bool:
            return "Start 2 of 4" in (await world.condition("MemoryFits")).get("message", "")

        await until(corrected)
        assert await template(world) != before
        await world.apply(tight(resource, "other"))
        assert "learned" in await planned_by(world, "other")
        await elsewhere.apply(tight(resource, "other"))
        assert "learned" not in await planned_by(elsewhere, "other")
