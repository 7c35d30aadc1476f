"""An API server for the whole run, a namespace for each test, an operator where asked for."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.apiserver import api_server
from kvarn_operator.config import Config
from tests.apiserver.world import BASE, SYSTEM, World, operator, with_token

NAMES = (f"test-{number}" for number in itertools.count(1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests in this folder need the API server."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.apiserver)


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An administrator's kubeconfig of a server that knows the CRD."""
    with api_server(tmp_path_factory.mktemp("apiserver")) as path:
        asyncio.run(World.of(path, namespace="default").install())
        yield path


@pytest.fixture
async def world(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A namespace of its own, which admits only what Pod Security calls restricted."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    world = World.of(kubeconfig, namespace=next(NAMES))
    await world.create()
    return world


@pytest.fixture(scope="session")
def manifests(kubeconfig: Path) -> None:
    """The operator's manifests, which no test changes."""
    everywhere = World.of(kubeconfig, namespace="default")
    asyncio.run(everywhere.kubectl("apply", SYSTEM, "-k", str(BASE)))


@pytest.fixture
async def as_operator(
    world: World,
    kubeconfig: Path,
    manifests: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Let what starts from here on be the service account of the manifests."""
    token = await world.kubectl("create", "token", "kvarn-operator", SYSTEM)
    monkeypatch.setenv("KUBECONFIG", str(with_token(kubeconfig, token.strip(), tmp_path)))


@pytest.fixture
def config() -> Config:
    """Settings for tests: a quick look at the metrics."""
    return Config(serving_image="serving:1", serving_cpu_image="serving-cpu:1", poll_seconds=0.3)


@pytest.fixture
def running(world: World, config: Config) -> Iterator[World]:
    """The same namespace with an operator that looks after it."""
    with operator(world.namespace, config):
        yield world


@pytest.fixture
def resource() -> dict[str, Any]:
    """A resource that needs no inspection and no GPU."""
    return {
        "apiVersion": "serving.kvarn.dev/v1alpha1",
        "kind": "KVarNDeployment",
        "metadata": {"name": "demo"},
        "spec": {
            "model": {
                "source": "pvc://demo-model/demo",
                "shape": {
                    "architecture": "LlamaForCausalLM",
                    "layers": 2,
                    "attentionHeads": 4,
                    "kvHeads": 2,
                    "headDim": 64,
                    "hiddenSize": 256,
                    "intermediateSize": 512,
                    "vocabSize": 1024,
                    "weightBytes": 4000000,
                    "dtype": "bfloat16",
                    "maxPositionTokens": 2048,
                },
            },
            "accelerator": {"resource": "cpu", "memory": "2Gi"},
            "cache": {"format": "kvarn_k4v2_g128"},
        },
    }
