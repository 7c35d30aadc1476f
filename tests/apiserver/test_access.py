"""The manifests' service account may do what the operator does, and nothing like taking over."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from kvarn_operator.config import Config
from tests.apiserver.vllm import Load, servers
from tests.apiserver.world import BASE, SYSTEM, World, operator, until

SHRINKING = "--field-selector=reason=ScaledDown"


async def test_the_service_account_may_do_all_that_the_operator_does(
    world: World,
    resource: dict[str, Any],
    config: Config,
    as_operator: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    resource["spec"]["autoscaling"] = {
        "maxReplicas": 3,
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
    }
    async with servers() as vllm:
        vllm.loads["127.0.0.2"] = Load()
        with operator(None, replace(config, metrics_port=vllm.port)):
            await world.apply(resource)
            await world.until_deployed()
            await world.start_pod("demo-1", "127.0.0.2")
            await world.roll_out()
            await world.kubectl("scale", "deployment/demo", "--replicas=3")

            async def shrunk() -> bool:
                return bool((await world.get("deployment"))["spec"]["replicas"] < 3)

            await until(shrunk)
            await world.kubectl("wait", "--for=create", "events", SHRINKING, "--timeout=60s")
            await world.kubectl("delete", "kvd", "demo", "--timeout=60s")

    assert "orbidden" not in caplog.text


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        ("get", "secrets"),
        ("delete", "deployments.apps"),
        ("create", "pods"),
        ("delete", "pods"),
        ("create", "apiservices.apiregistration.k8s.io"),
        ("patch", "apiservices.apiregistration.k8s.io"),
        ("update", "nodes"),
        ("create", "clusterroles.rbac.authorization.k8s.io"),
        ("list", "namespaces"),
    ],
)
async def test_it_may_not_take_over(world: World, manifests: None, verb: str, kind: str) -> None:
    account = "system:serviceaccount:kvarn-system:kvarn-operator"
    answer = await world.kubectl("auth", "can-i", verb, kind, f"--as={account}", check=False)

    assert answer.strip() == "no"


async def test_the_namespace_admits_the_operators_own_pod(world: World, manifests: None) -> None:
    document = yaml.safe_load((BASE / "deployment.yaml").read_text())
    metadata = {"name": "operator", "namespace": "kvarn-system"}
    spec = document["spec"]["template"]["spec"]

    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    await world.kubectl("apply", "--dry-run=server", SYSTEM, "-f", "-", stdin=yaml.safe_dump(pod))
