"""Mode ``keda``: KEDA itself, asking a real Prometheus, scales real servers.

Not part of ``make test``, as KEDA takes as long to compile as Kubernetes: ``make test-keda``.
"""

from collections.abc import Iterator

import pytest
import yaml

from demo import objects, view
from demo.cluster import Cluster
from demo.kube import Kube
from demo.load import Load
from demo.mirror import Mirror
from demo.story import Story, sample, url
from demo.traffic import Traffic
from hack import cache, keda
from hack.cluster.access import LocalCluster
from tests.e2e.scaling import answering, cut_off, owners, size, stays

pytestmark = pytest.mark.keda

PROMETHEUS = "tests/e2e/prometheus.yaml"
MONITORING = "monitoring"
IN_DEMO, IN_MONITORING = f"--namespace={objects.NAMESPACE}", f"--namespace={MONITORING}"
OPERATOR_PORT = 8080
"""Where the operator shows its metrics."""
WINDOW_SECONDS = 10
KEDA = {
    "mode": "keda",
    "minReplicas": 1,
    "maxReplicas": 3,
    "prometheusAddress": f"http://prometheus.{MONITORING}.svc:9090",
    "behavior": {
        "scaleDown": {
            "stabilizationWindowSeconds": WINDOW_SECONDS,
            "policies": [{"type": "Pods", "value": 2, "periodSeconds": 5}],
        }
    },
}
BURST = Load(url=url(), model=view.NAME, concurrency=24, output_tokens=128)
"""More than one server carries."""
OURS, OUTSIDE = [("kvarn-demo", "")], [("kube-controller-manager", "scale")]
SECONDS = 240.0
SYNCS_SECONDS = 40
"""In which a HorizontalPodAutoscaler asks at least twice, and could shrink what it likes."""


@pytest.fixture
def keda_runs(cluster: Cluster, kube: Kube) -> Iterator[None]:
    """KEDA as its own manifests have it, and a Prometheus that collects the operator's metrics."""
    assert isinstance(cluster.access, LocalCluster), "their images go to the local node alone"
    cluster.access.load(keda.archives(cache.default()))
    manifests = yaml.safe_dump_all(keda.manifests(cache.default())).encode()
    cluster.kubectl("apply", "--server-side", "--filename=-", stdin=manifests)
    cluster.kubectl("apply", f"--filename={PROMETHEUS}")
    for namespace in ("keda", MONITORING):
        wait(cluster, "condition=Available", "deployment", "--all", f"--namespace={namespace}")
    wait(cluster, "condition=Available", "apiservice/v1beta1.external.metrics.k8s.io")
    yield
    # While KEDA still runs: a ScaledObject is gone only when it has let go of it.
    leave_keda(cluster, kube)
    cluster.kubectl("delete", f"--filename={PROMETHEUS}")
    cluster.kubectl("delete", "--ignore-not-found", "--filename=-", stdin=manifests)


def test_keda_follows_the_demand_and_keeps_the_size_while_it_is_told_nothing(
    story: Story, cluster: Cluster, kube: Kube, mirror: Mirror, keda_runs: None
):
    """Up and down again; at the top Prometheus first has no number, then does not answer.

    The burst ends while KEDA is told nothing: what it then believed would shrink the deployment.
    How many servers the burst takes, two or three, is up to the machine.
    """
    own_the_size(kube)
    mirror.until(lambda _: owners(mirror) == OURS, "an owner of the size", seconds=30)
    kube.apply(sample(autoscaling=KEDA))
    with story.steady() as steady:
        with Traffic(kube, mirror, "load-burst", BURST) as traffic:
            mirror.until(lambda _: size(mirror) > 1, "a larger size", seconds=SECONDS)
            mirror.until(lambda _: answering(story) > 1, "more servers", seconds=SECONDS)
            assert owners(mirror) == OUTSIDE
            top = size(mirror)
            (prometheus,) = kube.list("Pod", namespace=MONITORING, selector="app=prometheus")
            with cut_off(cluster, prometheus, port=OPERATOR_PORT):
                burst = traffic.stop()
                wait(cluster, "condition=Fallback=True", "scaledobject/demo", IN_DEMO)
                held = size(mirror)
                assert held >= top
                stays(mirror, held, seconds=SYNCS_SECONDS)
                run_prometheus(cluster, replicas=0)
                wait(cluster, "delete", "pod", "--selector=app=prometheus", IN_MONITORING)
        stays(mirror, held, seconds=SYNCS_SECONDS)
        run_prometheus(cluster, replicas=1)
        mirror.until(lambda _: len(story.servers) == 1, "one server", seconds=SECONDS)
        light = steady.stop()

    assert (size(mirror), owners(mirror)) == (1, OUTSIDE)
    assert (burst.failed, light.failed) == (0, 0), (burst.failures, light.failures)
    assert min(burst.ok, light.ok) > 0


def wait(cluster: Cluster, what: str, *objects: str) -> None:
    """Return when `what` holds for these objects."""
    cluster.kubectl("wait", f"--for={what}", f"--timeout={SECONDS:.0f}s", *objects)


def own_the_size(kube: Kube) -> None:
    """Apply the size as it is: nobody becomes its owner by a change to what nobody applied."""
    metadata = {"name": view.NAME, "namespace": objects.NAMESPACE}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    kube.apply({**deployment, "spec": {"replicas": 1}})


def run_prometheus(cluster: Cluster, *, replicas: int) -> None:
    """Have Prometheus, or not."""
    cluster.kubectl("scale", "deployment/prometheus", f"--replicas={replicas}", IN_MONITORING)


def leave_keda(cluster: Cluster, kube: Kube) -> None:
    """Give the size to the operator; returns when neither ScaledObject nor autoscaler is left."""
    kube.apply(sample())
    for owner in ("scaledobject/demo", "hpa/keda-hpa-demo"):
        wait(cluster, "delete", owner, IN_DEMO)
