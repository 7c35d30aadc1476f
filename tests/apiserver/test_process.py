"""The operator as a process: its probe, and the order in which things are installed."""

import asyncio
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
