"""The operator on a real API server: what it makes of a resource, and what it leaves alone."""

from typing import Any

from tests.apiserver.world import World, until

Resource = dict[str, Any]


async def test_a_resource_becomes_a_deployment_a_service_and_a_budget(
    running: World, resource: Resource
) -> None:
    await running.apply(resource)

    await running.until_condition("Planned", "True")
    uid = (await running.get("kvd"))["metadata"]["uid"]
    for kind in ("deployment", "service", "poddisruptionbudget"):
        child = await running.get(kind)
        assert [owner["uid"] for owner in child["metadata"]["ownerReferences"]] == [uid]
        assert child["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "kvarn-operator"


async def test_the_plan_stands_in_the_status(running: World, resource: Resource) -> None:
    await running.apply(resource)
    await running.until_condition("MemoryFits", "True")

    plan = (await running.get("kvd"))["status"]["plan"]

    args = (await running.get("deployment"))["spec"]["template"]["spec"]["containers"][0]["args"]
    assert plan["format"] == args[args.index("--kv-cache-dtype") + 1] == "kvarn_k4v2_g128"
    assert str(plan["maxTokens"]) == args[args.index("--max-model-len") + 1]


async def test_pods_of_the_template_are_admitted_where_only_restricted_ones_are(
    running: World, resource: Resource
) -> None:
    await running.apply(resource)
    await running.until_deployed()

    await running.start_pod("demo-1", "127.0.0.2")

    assert await running.get("pod", "demo-1")


async def test_kubectl_wait_ends_when_it_serves(running: World, resource: Resource) -> None:
    await running.apply(resource)
    await running.until_condition("Ready", "False", reason="Starting")

    await running.roll_out()

    await running.kubectl("wait", "--for=condition=Ready", "kvd/demo", "--timeout=60s")
    assert (await running.condition("Progressing"))["status"] == "False"


async def test_an_edit_rolls_out(running: World, resource: Resource) -> None:
    await running.apply(resource)
    await running.until_deployed()
    await running.roll_out()
    before = await running.get("deployment")

    await running.patch("kvd", {"spec": {"context": {"maxTokens": 1024}}})

    async def rolled() -> bool:
        after = await running.get("deployment")
        return after["metadata"]["generation"] > before["metadata"]["generation"]

    await until(rolled)
    await running.until_condition("Progressing", "True", reason="RollingOut")
    await running.roll_out()
    await running.until_condition("Ready", "True")


async def test_drift_is_repaired(running: World, resource: Resource) -> None:
    await running.apply(resource)
    before = (await running.until_deployed())["spec"]
    await running.until_condition("Planned", "True")

    await running.patch("deployment", {"spec": {"progressDeadlineSeconds": 7, "paused": True}})
    await running.patch("service", {"spec": {"selector": {"app": "stolen"}}})

    async def repaired() -> bool:
        deployment, service = await running.get("deployment"), await running.get("service")
        wanted = before["progressDeadlineSeconds"], before["selector"]["matchLabels"]
        found = deployment["spec"]["progressDeadlineSeconds"], service["spec"]["selector"]
        return found == wanted

    await until(repaired)


async def test_a_deleted_child_comes_back(running: World, resource: Resource) -> None:
    await running.apply(resource)
    await running.until_condition("Planned", "True")

    await running.kubectl("delete", "service", "demo")

    await until(lambda: running.get("service"))


async def test_deletion_passes_our_own_finalizer(running: World, resource: Resource) -> None:
    await running.apply(resource)
    await running.until_condition("Planned", "True")
    assert (await running.get("kvd"))["metadata"]["finalizers"] == ["serving.kvarn.dev/finalizer"]

    await running.kubectl("delete", "kvd", "demo", "--timeout=60s")

    assert await running.get("kvd") == {}


async def test_a_plan_that_does_not_fit_leaves_the_children_alone(
    running: World, resource: Resource
) -> None:
    await running.apply(resource)
    await running.until_deployed()
    await running.roll_out()
    await running.until_condition("Ready", "True")
    before = await running.get("deployment")

    await running.patch("kvd", {"spec": {"accelerator": {"memory": "1Gi"}, "drainSeconds": 99}})

    refusal = await running.until_condition("MemoryFits", "False")
    assert "GiB" in refusal["message"]
    assert (await running.condition("Stalled"))["reason"] == refusal["reason"]
    assert await running.get("deployment") == before


async def test_a_spec_that_was_mended_is_no_longer_stalled(
    running: World, resource: Resource
) -> None:
    memory = resource["spec"]["accelerator"]["memory"]
    resource["spec"]["accelerator"]["memory"] = "1Gi"
    await running.apply(resource)
    await running.until_condition("Stalled", "True")

    await running.patch("kvd", {"spec": {"accelerator": {"memory": memory}}})

    await running.until_condition("Planned", "True")
    assert await running.condition("Stalled") == {}


async def test_a_child_that_belongs_to_something_else_is_not_taken(
    running: World, resource: Resource
) -> None:
    port = {"port": 80}
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "demo"},
        "spec": {"ports": [port]},
    }
    await running.apply(foreign)
    before = await running.get("service")

    await running.apply(resource)

    stalled = await running.until_condition("Stalled", "True", reason="ChildRefused")
    assert "belongs to something else" in stalled["message"]
    assert await running.get("service") == before


async def test_what_an_earlier_resource_left_is_waited_for(
    running: World, resource: Resource
) -> None:
    """As after `kubectl replace --force`: it is collected in a moment."""
    owner = {"apiVersion": "serving.kvarn.dev/v1alpha1", "kind": "KVarNDeployment", "name": "demo"}
    left = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "demo", "ownerReferences": [owner | {"uid": "earlier"}]},
        "spec": {"ports": [{"port": 80}]},
    }
    await running.apply(left)
    await running.apply(resource)
    await until(lambda: running.get("deployment"))
    conditions = (await running.get("kvd")).get("status", {}).get("conditions", ())
    assert not [each for each in conditions if each["type"] == "Stalled"]

    await running.kubectl("delete", "service", "demo")

    async def served() -> bool:
        service = await running.get("service")
        return bool(service) and service["spec"]["ports"][0]["port"] == 8000

    await until(served)
    await running.until_condition("Planned", "True")


async def test_an_overlay_that_the_api_server_refuses_is_said_in_its_words(
    running: World, resource: Resource
) -> None:
    resource["spec"]["podTemplate"] = {"spec": {"restartPolicy": "Sometimes"}}

    await running.apply(resource)

    stalled = await running.until_condition("Stalled", "True", reason="ChildRefused")
    assert "restartPolicy" in stalled["message"]
    assert await running.get("service") == {}


async def test_an_overlay_may_take_away_and_swap_what_is_there(
    running: World, resource: dict[str, Any]
) -> None:
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    server = {
        "name": "server",
        "livenessProbe": {"$patch": "delete"},
        "readinessProbe": {"exec": {"command": ["true"]}},
        "startupProbe": {"$patch": "replace", "tcpSocket": {"port": "http"}},
        "env": [{"name": "HOME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    scratch = {"name": "tmp", "ephemeral": {"volumeClaimTemplate": {"spec": claim}}}
    resource["spec"]["podTemplate"] = {"spec": {"containers": [server], "volumes": [scratch]}}

    await running.apply(resource)

    pod = (await running.until_deployed())["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert "livenessProbe" not in container
    assert "httpGet" not in container["readinessProbe"]
    assert container["readinessProbe"]["periodSeconds"] == 5
    assert container["startupProbe"]["failureThreshold"] == 3
    assert "emptyDir" not in next(v for v in pod["volumes"] if v["name"] == "tmp")
