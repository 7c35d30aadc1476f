"""The manifests' service account may do what the operator does, and nothing like taking over."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kvarn_operator.config import Config
from tests.apiserver.vllm import Load, servers
from tests.apiserver.world import BASE, SYSTEM, World, operator, until, with_token

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


@pytest.fixture
async def as_local(
    world: World, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let what starts from here on be an account that has the same rules in `world` alone."""
    account = {"kind": "ServiceAccount", "name": "local", "namespace": world.namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "local"}
    await world.apply(
        rbac("Role", rules=rules()),
        rbac("RoleBinding", roleRef=reference, subjects=[account]),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "local"}},
    )
    token = await world.kubectl("create", "token", "local")
    monkeypatch.setenv("KUBECONFIG", str(with_token(kubeconfig, token.strip(), tmp_path)))


async def test_roles_in_a_namespace_are_enough_for_an_operator_of_that_namespace(
    world: World, resource: dict[str, Any], config: Config, as_local: None
) -> None:
    resource["spec"]["accelerator"] = {}

    with operator(world.namespace, config):
        await world.apply(resource)
        unknown = await world.until_condition("Planned", "False", reason="UnknownAccelerator")
        assert "give accelerator.product" in unknown["message"]
        await world.patch("kvd", {"spec": {"accelerator": {"product": "NVIDIA-H200"}}})
        await world.until_condition("Planned", "True")


def rules() -> list[dict[str, Any]]:
    """What the manifests' ClusterRole grants."""
    documents = yaml.safe_load_all((BASE / "access.yaml").read_text())
    found: list[dict[str, Any]] = next(d["rules"] for d in documents if d["kind"] == "ClusterRole")
    return found


def rbac(kind: str, **fields: Any) -> dict[str, Any]:
    """An object that grants access, by the name of the account that gets it."""
    api_version = "rbac.authorization.k8s.io/v1"
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "local"}, **fields}
