"""A model whose shape is not stated is read once, by a short Job."""

import json
from typing import Any

import pytest

from tests.apiserver.world import World, until

Resource = dict[str, Any]


@pytest.fixture
def unread(resource: Resource) -> Resource:
    """A resource without a shape."""
    resource["spec"]["model"] = {"source": "pvc://demo-model/demo"}
    return resource


async def job(world: World) -> Resource:
    """The only Job there is; empty if there is none."""
    found = json.loads(await world.kubectl("get", "jobs", "-o", "json"))["items"]
    assert len(found) <= 1
    return found[0] if found else {}


async def without_jobs(world: World) -> None:
    """Take the Jobs away, as the garbage collector does after a while."""
    await world.kubectl("delete", "job,pod", "--all", "--grace-period=0", "--force")


async def end(world: World, started: Resource, *, code: int, message: str) -> None:
    """End the Job's pod with a termination message, as the kubelet would."""
    name, template = started["metadata"]["name"], started["spec"]["template"]
    metadata = {"name": f"{name}-x", "labels": template["metadata"]["labels"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    await world.apply(pod)
    terminated = {"exitCode": code, "reason": "Error", "message": message}
    status = {"name": "inspect", "state": {"terminated": terminated}}
    status |= {"image": "x", "imageID": "x", "ready": False, "restartCount": 0}
    change = {"status": {"phase": "Failed", "containerStatuses": [status]}}
    await world.patch("pod", change, name=f"{name}-x", subresource="status")


async def inspected(world: World, resource: Resource) -> Resource:
    """Apply the resource without its shape, which a Job then reads; the shape."""
    shape: Resource = resource["spec"]["model"].pop("shape")
    await world.apply(resource)
    await end(world, await until(lambda: job(world)), code=0, message=json.dumps(shape))
    await world.until_condition("Planned", "True")
    await without_jobs(world)
    return shape


async def fail(world: World, started: Resource, *, message: str) -> None:
    """End the Job for good, as its controller would."""
    await end(world, started, code=1, message=message)
    now = "2026-11-24T12:00:00Z"
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": now}
        for kind in ("FailureTarget", "Failed")
    ]
    status = {"conditions": conditions, "startTime": now, "failed": 1}
    name = started["metadata"]["name"]
    await world.patch("job", {"status": status}, name=name, subresource="status")


async def test_a_job_reads_the_shape_and_the_status_keeps_it(
    running: World, resource: Resource
) -> None:
    shape = resource["spec"]["model"].pop("shape")
    await running.apply(resource)
    started = await until(lambda: job(running))
    await running.until_condition("Planned", "Unknown", reason="Inspecting")

    await end(running, started, code=0, message=json.dumps(shape))

    await running.until_condition("Planned", "True")
    assert (await running.get("kvd"))["status"]["model"]["shape"] == shape
    assert await running.get("deployment")


async def test_a_shape_that_is_kept_needs_no_job(running: World, resource: Resource) -> None:
    await inspected(running, resource)

    await running.patch("kvd", {"spec": {"drainSeconds": 7}})

    await running.until_condition("Planned", "True")
    assert await job(running) == {}


async def test_another_image_freezes_nothing_and_loses_no_shape(
    running: World, resource: Resource
) -> None:
    shape = await inspected(running, resource)

    await running.patch("kvd", {"spec": {"engine": {"image": "serving:2"}}})

    await fail(running, await until(lambda: job(running)), message="{}")

    async def said() -> bool:
        return "failure" in (await running.get("kvd"))["status"]["model"]

    await until(said)
    assert (await running.get("kvd"))["status"]["model"]["shape"] == shape
    await running.until_condition("Planned", "True")
    pod = (await running.get("deployment"))["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "serving:2"


async def test_a_refused_job_freezes_nothing_if_the_shape_is_known(
    running: World, resource: Resource
) -> None:
    await inspected(running, resource)
    jobs = {"apiGroups": ["batch"], "apiVersions": ["v1"], "resources": ["jobs"]}
    await running.forbid(jobs | {"operations": ["CREATE"]}, unless="false", message="no jobs here")

    async def forbidden() -> bool:
        new = ("create", "job", "other", "--image=x", "--dry-run=server")
        return not await running.kubectl(*new, check=False)

    await until(forbidden)
    await running.patch("kvd", {"spec": {"engine": {"image": "serving:2"}}})

    async def renewed() -> bool:
        pod = (await running.get("deployment"))["spec"]["template"]["spec"]
        return bool(pod["containers"][0]["image"] == "serving:2")

    await until(renewed)
    await running.until_condition("Planned", "True")
    assert await job(running) == {}


async def test_a_model_that_cannot_be_read_is_said_in_the_jobs_words(
    running: World, unread: Resource
) -> None:
    await running.apply(unread)
    started = await until(lambda: job(running))
    words = {"reason": "ConfigMissing", "message": "/models/demo has no config.json: correct it."}
    await fail(running, started, message=json.dumps(words))

    stalled = await running.until_condition("Stalled", "True", reason="ConfigMissing")
    assert stalled["message"] == words["message"]
    assert await running.get("deployment") == {}


async def test_a_job_that_the_api_server_refuses_is_said_in_its_words(
    running: World, unread: Resource
) -> None:
    unread["spec"]["podTemplate"] = {"spec": {"tolerations": [{"operator": "Sometimes"}]}}

    await running.apply(unread)

    stalled = await running.until_condition("Stalled", "True", reason="ChildRefused")
    assert "tolerations" in stalled["message"]
