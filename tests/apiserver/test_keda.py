"""Mode ``keda``: a ScaledObject as KEDA's own schema has it, where KEDA is installed."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from hack import cache, keda
from kvarn_operator import metrics, render
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.autoscalers import autoscaler
from kvarn_operator.cluster import ClusterError
from kvarn_operator.config import Config
from tests.apiserver.vllm import Load, Servers, servers
from tests.apiserver.world import World, operator, until

Resource = dict[str, Any]
KEDA = {
    "mode": "keda",
    "minReplicas": 1,
    "maxReplicas": 3,
    "prometheusAddress": "http://prometheus.monitoring.svc:9090",
}
ONE = "127.0.0.2"


@pytest.fixture
async def vllm() -> AsyncIterator[Servers]:
    async with servers() as found:
        found.loads[ONE] = Load(running=64, waiting=100, usage=0.5)
        yield found


@pytest.fixture
async def scaled(
    world: World, config: Config, vllm: Servers, as_operator: None
) -> AsyncIterator[World]:
    """A namespace with an operator that has the manifests' rights; KEDA is not installed yet."""
    await world.kubectl("delete", "crd", "scaledobjects.keda.sh", "--ignore-not-found")
    with operator(world.namespace, replace(config, metrics_port=vllm.port)):
        yield world


async def serve(world: World, resource: Resource) -> None:
    """The resource in mode keda, with one busy server."""
    resource["spec"] |= {"autoscaling": KEDA, "batching": {"maxSequences": 64}}
    await world.apply(resource)
    await world.until_deployed()
    await world.start_pod("demo-1", ONE)
    await world.roll_out()


async def install_keda(world: World) -> None:
    """Its definition of a ScaledObject, without its operator."""
    await world.kubectl("apply", "--server-side", "-f", str(keda.definition(cache.default())))


def told(world: World) -> float | None:
    """The size that Prometheus finds in the operator's metrics."""
    labels = {"namespace": world.namespace, "name": "demo"}
    return metrics.REGISTRY.get_sample_value("kvarn_demand_replicas", labels)


async def until_told(world: World, size: float | None) -> None:
    """Wait until Prometheus finds a size; None for none."""

    async def is_told() -> bool:
        return told(world) == size

    await until(is_told)


async def test_keda_is_asked_for_where_it_is_missing_and_used_once_it_is_there(
    scaled: World, resource: Resource
) -> None:
    await serve(scaled, resource)
    missing = await scaled.until_condition("ScalingActive", "False", reason="NoOwner")
    assert "install KEDA 2.17 or later" in missing["message"]

    await install_keda(scaled)
    await scaled.until_condition("ScalingActive", "True")

    found = await scaled.get("scaledobject")
    wanted = autoscaler(KVarNDeployment.model_validate(await scaled.get("kvd")))
    assert wanted is not None
    assert found["spec"] == wanted["spec"]


async def test_prometheus_finds_the_demand_and_finds_none_on_silence(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    await install_keda(scaled)
    await serve(scaled, resource)

    await until_told(scaled, 3)
    vllm.loads.clear()
    await until_told(scaled, None)


async def test_prometheus_finds_no_demand_without_a_plan_a_pass_or_a_resource(
    scaled: World, resource: Resource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old number would be believed."""

    def fail(*_: Any, **__: Any) -> None:
        raise ClusterError(0, "The API server does not answer.")

    await install_keda(scaled)
    await serve(scaled, resource)

    await until_told(scaled, 3)
    await scaled.patch("kvd", {"spec": {"accelerator": {"memory": "1Mi"}}})
    await until_told(scaled, None)

    await scaled.patch("kvd", {"spec": {"accelerator": {"memory": "2Gi"}}})
    await until_told(scaled, 3)
    with monkeypatch.context() as patched:
        patched.setattr(render, "children", fail)
        await until_told(scaled, None)

    await until_told(scaled, 3)
    await scaled.kubectl("delete", "kvd", "demo")
    await until_told(scaled, None)


async def test_leaving_keda_removes_the_scaled_object_before_the_size_is_written(
    scaled: World, resource: Resource
) -> None:
    """While KEDA has not let go of it, the operator waits."""
    await install_keda(scaled)
    await serve(scaled, resource)
    await until(lambda: scaled.get("scaledobject"))
    await scaled.patch("scaledobject", {"metadata": {"finalizers": ["finalizer.keda.sh/x"]}})

    await scaled.patch("kvd", {"spec": {"autoscaling": {"mode": "builtin"}}})
    await scaled.until_condition("ScalingActive", "False", reason="NoOwner")
    assert await scaled.size() == 1

    await scaled.patch("scaledobject", {"metadata": {"finalizers": None}})
    await scaled.until_size(3)
    assert not await scaled.get("scaledobject")
