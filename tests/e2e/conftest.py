"""One cluster, one operator and one served model for all end-to-end tests."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import install, model, objects, timings, view
from demo.cluster import Cluster, ensure_cluster, ensure_images
from demo.findings import Findings
from demo.kube import Kube
from demo.mirror import Mirror
from demo.story import Story
from hack.progress import Step


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests in this folder need the cluster."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with the images; left up only if it was up before."""
    started = time.monotonic()
    cluster = ensure_cluster()
    ensure_images(cluster)
    yield cluster
    cluster.take_down()
    timings.record("end-to-end tests", time.monotonic() - started)


@pytest.fixture(scope="session")
def kube(cluster: Cluster) -> Iterator[Kube]:
    """A connection to the cluster, with the operator and the model's volume in it."""
    folder = model.ensure()
    kube = cluster.connect()
    install.install_operator(cluster, kube, Step("operator"))
    install.prepare_namespace(cluster, kube, folder)
    yield kube
    install.remove_namespace(kube)
    kube.close()


@pytest.fixture(scope="session")
def mirror(kube: Kube) -> Iterator[Mirror]:
    """The objects in the demo's namespace."""
    with Mirror(kube, objects.NAMESPACE) as mirror:
        yield mirror


@pytest.fixture
def story(kube: Kube, mirror: Mirror) -> Story:
    """The demo's acts on a resource that is as in the sample, and serves through its Service."""
    story = Story(kube, mirror, Findings())
    story.serve()
    mirror.until(lambda _: leads_to_a_server(kube), "a server behind the Service", seconds=30)
    return story


def leads_to_a_server(kube: Kube) -> bool:
    """Whether the Service has a ready endpoint: not at once after a change of its selector."""
    of_service = f"kubernetes.io/service-name={view.NAME}"
    slices = kube.list("EndpointSlice", namespace=objects.NAMESPACE, selector=of_service)
    return any(
        endpoint["conditions"].get("ready")
        for found in slices
        for endpoint in found.get("endpoints") or ()
    )
