"""A server that does not start says why in the resource's conditions."""

import json
from typing import Any

import pytest

from kvarn_operator import render
from tests.apiserver.world import World, until

WORDS = {
    "reason": "InsufficientMemory",
    "message": "The cache needs more memory than is left: lower context.maxTokens.",
    "numbers": {"neededBytes": 7340032, "leftBytes": 1048576},
}


async def test_a_start_that_ran_out_of_memory_is_told_with_its_numbers(
    running: World, resource: dict[str, Any]
) -> None:
    await running.apply(resource)
    await running.until_deployed()
    terminated = {"exitCode": 1, "reason": "Error", "message": json.dumps(WORDS)}
    container = {
        "name": "server",
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": terminated},
        "restartCount": 3,
        "image": "x",
        "imageID": "x",
        "ready": False,
    }

    await running.start_pod("demo-1", "127.0.0.2", ready=False, containerStatuses=[container])

    degraded = await running.until_condition("Degraded", "True", reason="InsufficientMemory")
    assert "neededBytes 7340032" in degraded["message"]
    assert "Restarts: 3" in degraded["message"]
    await running.until_condition("MemoryFits", "False", reason="InsufficientMemory")


async def test_an_image_that_cannot_be_pulled_is_told(
    running: World, resource: dict[str, Any]
) -> None:
    await running.apply(resource)
    await running.until_deployed()
    container = {
        "name": "server",
        "state": {"waiting": {"reason": "ImagePullBackOff"}},
        "restartCount": 0,
        "image": "x",
        "imageID": "",
        "ready": False,
    }

    await running.start_pod("demo-1", "127.0.0.2", ready=False, containerStatuses=[container])

    degraded = await running.until_condition("Degraded", "True", reason="ImagePullBackOff")
    assert "correct engine.image" in degraded["message"]


async def test_a_change_of_condition_is_an_event(running: World, resource: dict[str, Any]) -> None:
    await running.apply(resource)
    await running.until_condition("Planned", "True")

    await running.kubectl(
        "wait", "--for=create", "events", "--field-selector=reason=Planned", "--timeout=60s"
    )


async def test_a_mistake_of_the_operator_is_told_and_tried_again_ever_more_rarely(
    running: World,
    resource: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def mistaken(*_: Any, **__: Any) -> None:
        raise KeyError("surprise")

    async def tried_again() -> bool:
        return "is tried again in 4 s" in caplog.text

    with monkeypatch.context() as patched:
        patched.setattr(render, "children", mistaken)
        await running.apply(resource)
        degraded = await running.until_condition("Degraded", "True", reason="PassFailed")
        assert "KeyError: 'surprise'" in degraded["message"]
        await running.until_condition("Ready", "Unknown", reason="PassFailed")
        await until(tried_again)
        assert "Traceback" in caplog.text

    await running.until_condition("Degraded", "False")
    await running.until_deployed()
