"""Mode ``hpa``: Kubernetes' own controller, fed by the operator through the aggregation layer."""

import json
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kvarn_operator import metrics
from kvarn_operator.config import Config
from kvarn_operator.observe import DELETION_COST
from tests.apiserver.controllers import autoscaler_controller, install_metrics_api
from tests.apiserver.vllm import Load, Servers, servers
from tests.apiserver.world import KubectlError, World, free_port, operator, until

Resource = dict[str, Any]
GROUP = "/apis/external.metrics.k8s.io/v1beta1"
CUSTOM = "/apis/custom.metrics.k8s.io/v1beta2"
QUICK = {
    "scaleDown": {
        "stabilizationWindowSeconds": 1,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 1}],
    }
}
HPA = {"mode": "hpa", "minReplicas": 1, "maxReplicas": 3, "behavior": QUICK}
BUSY = Load(running=64, waiting=150, usage=0.5)
ONE, TWO, THREE = "127.0.0.2", "127.0.0.3", "127.0.0.4"
OUTSIDE = [("kube-controller-manager", "scale")]
OURS = [("kvarn-operator", "scale")]


@pytest.fixture(scope="module")
def controller(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    log = tmp_path_factory.mktemp("controller") / "kube-controller-manager.log"
    with autoscaler_controller(kubeconfig, log):
        yield


@pytest.fixture
async def vllm() -> AsyncIterator[Servers]:
    async with servers() as found:
        yield found


@pytest.fixture
async def scaled(
    world: World, config: Config, vllm: Servers, as_operator: None, controller: None
) -> AsyncIterator[World]:
    """A namespace with an operator that has the manifests' rights, and is asked for metrics."""
    port = free_port()
    await install_metrics_api(world, port=port)
    config = replace(config, metrics_port=vllm.port, metrics_api_port=port)
    with operator(world.namespace, config):
        yield world


async def serve(world: World, resource: Resource, *addresses: str, **spec: Any) -> None:
    """The resource with a ready pod at each address."""
    resource["spec"] |= {"batching": {"maxSequences": 64}} | spec
    await world.apply(resource)
    await world.until_deployed()
    await run(world, *addresses)


async def run(world: World, *addresses: str) -> None:
    """A ready pod at each address."""
    for address in addresses:
        await world.start_pod(f"demo-{address[-1]}", address)
    await world.roll_out(ready=len(addresses))


async def until_told(world: World, wanted: str) -> None:
    """Wait until the API server tells an autoscaler to go to `wanted`."""

    async def told() -> bool:
        path = f"{GROUP}/namespaces/{world.namespace}/kvarn_demand_replicas"
        answer = await world.kubectl("get", "--raw", path, check=False)
        return bool(answer) and json.loads(answer)["items"][0]["value"] == wanted

    await until(told, say=f"nobody is told {wanted}")


def writes() -> float:
    return metrics.REGISTRY.get_sample_value("kvarn_api_writes_total", {"kind": "scale"}) or 0.0


async def test_the_clusters_controller_follows_the_demand_up_and_down(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    """From 1 to 3 and back to 1, while the operator never writes the size."""
    before = writes()
    vllm.loads[ONE] = BUSY
    await serve(scaled, resource, ONE, autoscaling=HPA)
    await scaled.until_size(3)

    vllm.loads |= {ONE: Load(), TWO: Load(), THREE: Load()}
    await run(scaled, ONE, TWO, THREE)

    await scaled.until_size(1)
    assert writes() == before


async def test_the_groups_are_served_before_any_resource_asks_for_it(scaled: World) -> None:
    """Else the API server could not tell what a namespace holds, and would delete none."""
    served = {GROUP: "kvarn_demand_replicas", CUSTOM: "kvarn_pressure_ratio"}

    async def answered() -> bool:
        answers = [await scaled.kubectl("get", "--raw", at, check=False) for at in served]
        return all(name in text for name, text in zip(served.values(), answers, strict=True))

    await until(answered)


async def test_the_pods_with_the_least_to_lose_are_marked_before_it_shrinks(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    vllm.loads |= {ONE: Load(running=2, usage=0.01), TWO: Load()}
    await serve(scaled, resource, ONE, TWO, replicas=2)
    await scaled.until_size(2)

    await scaled.patch("kvd", {"spec": {"replicas": None, "autoscaling": HPA}})

    await scaled.until_size(1)
    pods = [await scaled.get("pod", name) for name in ("demo-2", "demo-3")]
    busy, idle = (int(pod["metadata"]["annotations"][DELETION_COST]) for pod in pods)
    assert busy > idle


async def test_a_silent_server_freezes_the_size(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    """No number is served, so the controller has nothing to shrink by."""
    vllm.loads |= {ONE: BUSY}
    await serve(scaled, resource, ONE, autoscaling=HPA)
    await scaled.until_size(3)

    await run(scaled, ONE, TWO)
    vllm.loads[ONE] = Load()

    await scaled.until_condition("ScalingActive", "False", reason="MetricsStale")
    await scaled.kubectl("wait", "hpa/demo", "--for=condition=ScalingActive=False", "--timeout=60s")
    with pytest.raises(KubectlError, match="is not known: The size stays, as there are no fresh"):
        await scaled.kubectl("get", "--raw", path(scaled, "kvarn_demand_replicas"))
    assert await scaled.size() == 3


def path(world: World, metric: str) -> str:
    return f"{GROUP}/namespaces/{world.namespace}/{metric}"


async def test_values_are_served_to_any_client_of_the_api_server(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    vllm.loads[ONE] = Load(usage=0.425, tokens=8000)
    await serve(scaled, resource, ONE, autoscaling=HPA)
    await until_told(scaled, "1")

    selector = "?labelSelector=serving.kvarn.dev%2Fdeployment%3Ddemo"
    tokens = await scaled.kubectl("get", "--raw", path(scaled, "kvarn_demand_tokens") + selector)
    place = f"{CUSTOM}/namespaces/{scaled.namespace}/kvarndeployments.serving.kvarn.dev/demo"
    pressure = await scaled.kubectl("get", "--raw", f"{place}/kvarn_pressure_ratio")

    assert json.loads(tokens)["items"][0]["value"] == "3400"
    (item,) = json.loads(pressure)["items"]
    assert (item["value"], item["describedObject"]["name"]) == ("500m", "demo")
    assert "kvarn_demand_replicas" in await scaled.kubectl("get", "--raw", GROUP)


async def test_metrics_are_for_those_who_may_read_them(
    scaled: World, resource: Resource, vllm: Servers, config: Config
) -> None:
    """Those who ask the operator itself are told apart by their tokens."""
    vllm.loads[ONE] = Load()
    await serve(scaled, resource, ONE, autoscaling=HPA)
    await until_told(scaled, "1")

    controller = await token(scaled, "horizontal-pod-autoscaler", "--namespace=kube-system")
    anybody = await token(scaled, "default")

    assert await ask(scaled, controller) == (200, "")
    assert await ask(scaled, anybody) == (403, "Forbidden")
    assert await ask(scaled, "no token") == (401, "Unauthorized")
    assert await ask(scaled, "") == (401, "Unauthorized")


async def token(world: World, account: str, *place: str) -> str:
    await world.kubectl("create", "serviceaccount", account, *place, check=False)
    return (await world.kubectl("create", "token", account, *place)).strip()


async def ask(world: World, bearer: str) -> tuple[int, str]:
    """Status and reason that the operator's own server answers, known by its certificate."""
    registered = await world.get("apiservice", "v1beta1.external.metrics.k8s.io")
    spec = registered["spec"]
    trusted = ssl.create_default_context(cadata=b64decode(spec["caBundle"]).decode())
    url = f"https://localhost:{spec['service']['port']}{path(world, 'kvarn_demand_replicas')}"
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    name = "kvarn-operator-metrics-api.kvarn-system.svc"
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=headers, ssl=trusted, server_hostname=name) as answer,
    ):
        return answer.status, (await answer.json()).get("reason", "")


async def test_switching_the_owner_does_not_jump_the_size(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    """Whoever changed the size last is its one owner; a switch alone changes nothing."""
    vllm.loads |= {ONE: Load(usage=0.7), TWO: Load(usage=0.7)}
    await serve(scaled, resource, ONE, TWO, replicas=2)
    await scaled.until_size(2)
    await scaled.patch("kvd", {"spec": {"replicas": None, "autoscaling": HPA}})
    await until_told(scaled, "2")
    await scaled.kubectl("wait", "hpa/demo", "--for=condition=ScalingActive", "--timeout=60s")
    assert (await scaled.size(), await scaled.owners_of_size()) == (2, OURS)

    vllm.loads[ONE] = BUSY
    await scaled.until_size(3)
    assert await scaled.owners_of_size() == OUTSIDE

    vllm.loads[THREE] = Load(usage=0.7)
    await run(scaled, THREE)
    await scaled.roll_out(ready=3)
    vllm.loads[ONE] = Load(usage=0.7)  # not before the third runs: two are enough for two
    await scaled.patch("kvd", {"spec": {"autoscaling": {"mode": "builtin"}}})
    await scaled.until_condition("ScalingActive", "True", reason="WithinTarget")
    assert not await scaled.get("hpa")
    assert (await scaled.size(), await scaled.owners_of_size()) == (3, OUTSIDE)

    vllm.loads |= dict.fromkeys((ONE, TWO, THREE), Load())
    await scaled.until_size(1)
    assert await scaled.owners_of_size() == OURS


async def test_an_autoscaler_of_ones_own_may_scale_the_resource(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    """Mode none: it writes ``spec.replicas`` through the scale subresource of the resource."""
    vllm.loads[ONE] = Load(running=4, usage=1.0, tokens=8000)
    await serve(scaled, resource, ONE, replicas=1, autoscaling={"mode": "none"})
    await scaled.apply(own_autoscaler())

    await scaled.until_size(2)

    assert (await scaled.get("kvd"))["spec"]["replicas"] == 2
    assert await scaled.owners_of_size("kvd") == OUTSIDE
    assert await scaled.owners_of_size() == OURS


def own_autoscaler() -> Resource:
    """Two replicas for one whose cache is full: 8000 tokens of demand, 6800 for each."""
    metric = {
        "metric": {"name": "kvarn_demand_tokens"},
        "target": {"type": "AverageValue", "averageValue": "6800"},
    }
    version = "serving.kvarn.dev/v1alpha1"
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "own"},
        "spec": {
            "scaleTargetRef": {"apiVersion": version, "kind": "KVarNDeployment", "name": "demo"},
            "maxReplicas": 3,
            "metrics": [{"type": "External", "external": metric}],
        },
    }


async def test_an_autoscaler_that_someone_deletes_comes_back(
    scaled: World, resource: Resource, vllm: Servers
) -> None:
    vllm.loads[ONE] = Load()
    await serve(scaled, resource, ONE, autoscaling=HPA)
    await until_told(scaled, "1")
    old = (await scaled.get("hpa"))["metadata"]["uid"]

    await scaled.kubectl("delete", "hpa", "demo")

    async def back() -> bool:
        found = await scaled.get("hpa")
        return bool(found) and found["metadata"]["uid"] != old

    await until(back)


async def test_a_group_that_another_serves_is_left_to_it(
    world: World, resource: Resource, config: Config, as_operator: None
) -> None:
    await install_metrics_api(world, port=free_port())
    service = {"name": "keda-operator-metrics-apiserver", "namespace": "keda"}
    await world.patch(
        "apiservice", {"spec": {"service": service}}, name="v1beta1.external.metrics.k8s.io"
    )
    resource["spec"]["autoscaling"] = HPA

    with operator(world.namespace, config):
        await world.apply(resource)
        found = await world.until_condition("ScalingActive", "False", reason="NoOwner")

    assert "served by keda/keda-operator-metrics-apiserver" in found["message"]


async def test_without_the_group_the_condition_says_what_to_install(
    world: World, resource: Resource, config: Config, as_operator: None
) -> None:
    await world.kubectl("delete", "apiservice", "v1beta1.external.metrics.k8s.io", check=False)
    resource["spec"]["autoscaling"] = HPA

    with operator(world.namespace, config):
        await world.apply(resource)
        found = await world.until_condition("ScalingActive", "False", reason="NoOwner")

    assert "kubectl apply -k manifests/metrics-api" in found["message"]
