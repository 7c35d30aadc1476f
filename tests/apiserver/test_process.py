"""The operator as a process: its probe, and the order in which things are installed."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.apiserver import api_server
from kvarn_operator import handlers
from kvarn_operator.config import Config
from tests.apiserver.world import World, free_port, operator, until


def health(port: int) -> int:
    """The status that the kubelet's probe gets; 0 without an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return 0


@pytest.mark.parametrize(("overdue", "status"), [(120.0, 200), (-1.0, 500)])
async def test_the_probe_fails_when_a_pass_is_overdue(
    world: World, config: Config, monkeypatch: pytest.MonkeyPatch, overdue: float, status: int
) -> None:
    monkeypatch.setattr(handlers, "OVERDUE_SECONDS", overdue)
    port = free_port()

    with operator(world.namespace, config, health_port=port):

        async def answers() -> bool:
            return await asyncio.to_thread(health, port) == status

        await until(answers)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """An API server that has no CRD yet."""
    with api_server(tmp_path) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield World.of(kubeconfig, namespace="early")


async def test_an_operator_that_comes_before_its_crd_waits_for_it(
    bare: World, resource: dict[str, Any], config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    await bare.create()

    async def asked() -> bool:
        return "apply the folder crds/" in caplog.text

    with operator(bare.namespace, config, wait=False):
        await until(asked)
        await bare.install()
        await bare.apply(resource)
        await bare.until_condition("Planned", "True")


async def admit_any_pod_template(world: World) -> None:
    """Make the CRD as loose as that of an older release."""
    place = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/podTemplate"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    change = json.dumps([{"op": "replace", "path": place, "value": schema}])
    name = "kvarndeployments.serving.kvarn.dev"
    await world.kubectl("patch", "crd", name, "--type=json", "-p", change)


async def test_a_spec_that_an_older_crd_let_in_is_told_and_its_servers_are_left_alone(
    bare: World, resource: dict[str, Any], config: Config
) -> None:
    await bare.create()
    await bare.install()
    await admit_any_pod_template(bare)

    with operator(bare.namespace, config):
        await bare.apply(resource)
        before = await bare.until_deployed()
        broken = {"spec": {"containers": [{"image": "x"}]}}

        async def admitted() -> bool:
            await bare.patch("kvd", {"spec": {"podTemplate": broken}})
            return "spec" in (await bare.get("kvd"))["spec"]["podTemplate"]

        await until(admitted)
        planned = await bare.until_condition("Planned", "False", reason="InvalidSpec")
        assert "podTemplate.spec.containers.0.name" in planned["message"]
        await bare.until_condition("Ready", "False", reason="InvalidSpec")
        await bare.until_condition("Stalled", "True", reason="InvalidSpec")
        assert (await bare.get("deployment"))["spec"] == before["spec"]

        await bare.patch("kvd", {"spec": {"podTemplate": None}})
        await bare.until_condition("Planned", "True")
        assert not await bare.condition("Stalled")
