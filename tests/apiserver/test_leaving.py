"""Pods that load or drain are kept from node autoscalers; those that no node takes are shown."""

from typing import Any

from kvarn_operator.observe import EVICTION, LOCAL_VOLUMES, PROTECTION
from tests.apiserver.world import World, until

Resource = dict[str, Any]
ADDRESS = "127.0.0.2"


async def notes(world: World) -> dict[str, str]:
    """What the pod says to node autoscalers."""
    found = (await world.get("pod", "demo-1"))["metadata"].get("annotations", {})
    return {name: value for name, value in found.items() if name in EVICTION}


async def until_notes(world: World, wanted: dict[str, str]) -> None:
    async def so() -> bool:
        return await notes(world) == wanted

    await until(so, say=f"the annotations did not become {wanted}: {await notes(world)}")


async def load(world: World, resource: Resource, **spec: Any) -> None:
    """The resource with one pod on a node, which is not ready yet."""
    resource["spec"] |= spec
    await world.apply(resource)
    await world.until_deployed()
    await world.start_pod("demo-1", ADDRESS, ready=False, node="node-1")


MOVABLE = {LOCAL_VOLUMES: "tmp,model"}


async def test_a_pod_is_protected_while_it_loads_and_while_it_drains(
    running: World, resource: Resource
) -> None:
    await load(running, resource)
    await until_notes(running, PROTECTION)

    await running.set_ready("demo-1", ADDRESS)
    await until_notes(running, MOVABLE)

    await running.kubectl("delete", "pod", "demo-1", "--wait=false")
    await until_notes(running, PROTECTION)


async def until_counts(world: World, *, ready: int, loading: int, draining: int) -> None:
    """Wait until the status counts its pods like this."""
    wanted = {"readyReplicas": ready, "loadingReplicas": loading, "drainingReplicas": draining}

    async def counted() -> bool:
        found = (await world.get("kvd")).get("status", {})
        return {name: found.get(name) for name in wanted} == wanted

    await until(counted, say=f"the counts did not become {wanted}")


async def test_replicas_that_load_and_drain_are_counted(running: World, resource: Resource) -> None:
    await load(running, resource, replicas=2)
    await until_counts(running, ready=0, loading=1, draining=0)

    await running.set_ready("demo-1", ADDRESS)
    await running.start_pod("demo-2", "127.0.0.3", ready=False, node="node-1")
    await running.roll_out(ready=1)
    await until_counts(running, ready=1, loading=1, draining=0)

    await running.kubectl("delete", "pod", "demo-2", "--wait=false")
    await until_counts(running, ready=1, loading=0, draining=1)
    table = await running.kubectl("get", "kvd", "demo", "-o", "wide")
    assert {"LOADING", "DRAINING"} <= set(table.split())


async def test_a_pod_that_fails_is_in_nobodys_way(running: World, resource: Resource) -> None:
    await load(running, resource)
    await until_notes(running, PROTECTION)

    waiting = {"name": "server", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    state = {"waiting": {"reason": "ImagePullBackOff"}}
    await running.set_ready(
        "demo-1", ADDRESS, ready=False, containerStatuses=[waiting | {"state": state}]
    )

    await until_notes(running, {})


async def test_what_the_pod_template_says_stays(running: World, resource: Resource) -> None:
    mine = {"karpenter.sh/do-not-disrupt": "true"}
    await load(running, resource, podTemplate={"metadata": {"annotations": mine}})
    await until_notes(running, PROTECTION)

    await running.set_ready("demo-1", ADDRESS)

    await until_notes(running, mine | MOVABLE)


async def forbid_annotations(world: World) -> None:
    """An admission policy that lets nobody write `PROTECTION` on a pod that is there."""
    names = " || ".join(f"'{name}' in object.metadata.annotations" for name in PROTECTION)
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    await world.forbid(
        pods | {"operations": ["UPDATE"]},
        unless=f"!has(object.metadata.annotations) || !({names})",
        message="pods stay as they are",
    )


async def test_a_policy_on_annotations_is_told_and_holds_up_nothing_else(
    running: World, resource: Resource
) -> None:
    await forbid_annotations(running)
    await load(running, resource, replicas=2)
    note = next(iter(PROTECTION))

    async def forbidden() -> bool:
        change = ("annotate", "pod", "demo-1", f"{note}=true", "--overwrite", "--dry-run=server")
        return not await running.kubectl(*change, check=False)

    await until(forbidden)
    await running.start_pod("demo-2", "127.0.0.3", ready=False, node="node-1")

    degraded = await running.until_condition("Degraded", "True", reason="AnnotationRefused")
    assert "pods stay as they are" in degraded["message"]
    await running.until_size(2)
    await until_counts(running, ready=0, loading=2, draining=0)


async def test_pods_that_no_node_takes_are_shown_with_the_schedulers_words(
    running: World, resource: Resource
) -> None:
    """Though the roll-out itself is complete: the size grew later."""
    await load(running, resource, replicas=2)
    await running.set_ready("demo-1", ADDRESS)
    await running.start_pod("demo-2", "127.0.0.3", ready=False)
    await running.roll_out(ready=1)
    words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    change = {"status": {"conditions": [why]}}
    await running.patch("pod", change, name="demo-2", subresource="status")

    found = await running.until_condition("Progressing", "True", reason="Unschedulable")

    assert found["message"] == f"1 of 2 pods wait: {words}"
