"""Mode ``hpa``: the cluster's own controller scales real servers; a client sends throughout."""

from collections.abc import Iterator

import pytest

from demo import install, view
from demo.cluster import Cluster
from demo.install import OPERATOR, OPERATOR_NAMESPACE
from demo.kube import Kube, Manifest
from demo.load import Load
from demo.mirror import Mirror
from demo.story import Story, sample, url
from demo.traffic import Traffic
from tests.e2e.scaling import answering, cut_off, size, stays

METRICS_API = install.ROOT / "manifests" / "metrics-api"
WINDOW_SECONDS = 10
HPA = {
    "mode": "hpa",
    "minReplicas": 1,
    "maxReplicas": 3,
    "behavior": {
        "scaleDown": {
            "stabilizationWindowSeconds": WINDOW_SECONDS,
            "policies": [{"type": "Pods", "value": 2, "periodSeconds": 5}],
        }
    },
}
BURST = Load(url=url(), model=view.NAME, concurrency=24, output_tokens=128)
"""More than one server carries."""
SECONDS = 240.0
SERVER_PORT = 8000


@pytest.fixture
def metrics_api(cluster: Cluster, kube: Kube) -> Iterator[None]:
    """The API server asks the operator for metrics."""
    cluster.kubectl("apply", "-k", str(METRICS_API))
    yield
    cluster.kubectl("delete", "-k", str(METRICS_API))


def test_nothing_is_lost_through_a_ramp_a_restart_an_outage_and_a_roll_out(
    story: Story, cluster: Cluster, kube: Kube, mirror: Mirror, metrics_api: None
):
    """Up and down again: the operator is restarted on the way up, and sees no pod at the top.

    At the bottom the spec changes: the one server is replaced, and the size is still one.
    How many servers the burst takes, two or three, is up to the machine.
    """
    kube.apply(sample(autoscaling=HPA))
    with story.steady() as steady:
        with Traffic(kube, mirror, "load-burst", BURST) as traffic:
            mirror.until(lambda _: size(mirror) > 1, "a larger size", seconds=SECONDS)
            operator = restarted_operator(kube)
            mirror.until(lambda _: answering(story) > 1, "more servers", seconds=SECONDS)
            with cut_off(cluster, operator, port=SERVER_PORT):
                burst = traffic.stop()
                mirror.until(lambda _: is_frozen(story), "the freeze", seconds=60)
                stays(mirror, size(mirror), seconds=2 * WINDOW_SECONDS)
        mirror.until(lambda _: len(story.servers) == 1, "one server", seconds=SECONDS)
        story.edit(steady, autoscaling=HPA)
        light = steady.stop()

    assert size(mirror) == len(story.servers) == 1
    assert (burst.failed, light.failed) == (0, 0), (burst.failures, light.failures)
    assert min(burst.ok, light.ok) > 0


def is_frozen(story: Story) -> bool:
    """Whether the operator says that it has nothing to go by."""
    return view.condition(story.resource, "ScalingActive").get("reason") == "MetricsStale"


def restarted_operator(kube: Kube) -> Manifest:
    """Delete the operator's pod; the one that takes its place, once it is ready."""
    with Mirror(kube, OPERATOR_NAMESPACE, ("Pod",)) as pods:
        old = {pod["metadata"]["name"] for pod in pods.all("Pod")}
        for name in old:
            kube.delete("Pod", name, namespace=OPERATOR_NAMESPACE)

        def new(pods: Mirror) -> list[Manifest]:
            ready = filter(view.is_ready, pods.all("Pod"))
            return [pod for pod in ready if pod["metadata"]["name"] not in old]

        pods.until(lambda pods: bool(new(pods)), f"a new {OPERATOR}", seconds=60)
        return new(pods)[0]
