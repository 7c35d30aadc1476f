"""The operator may end at any time: a new one finds everything as it should be."""

from kubernetes.client.exceptions import ApiException

from demo import view
from demo.install import OPERATOR, OPERATOR_NAMESPACE
from demo.kube import Kube, proxy
from demo.mirror import Mirror
from demo.story import Story

CHILDREN = ("Deployment", "Service", "PodDisruptionBudget")


def test_a_restarted_operator_writes_nothing(story: Story, kube: Kube, mirror: Mirror):
    """Neither the children nor the resource get a new version."""
    story.settle()
    before = versions(mirror)
    with Mirror(kube, OPERATOR_NAMESPACE, ("Pod",)) as pods:
        old = {pod["metadata"]["name"] for pod in pods.all("Pod")}
        for name in old:
            kube.delete("Pod", name, namespace=OPERATOR_NAMESPACE)
        pods.until(
            lambda pods: any(
                passes(kube, pod["metadata"]["name"]) >= 2
                for pod in pods.all("Pod")
                if pod["metadata"]["name"] not in old and view.is_ready(pod)
            ),
            "two passes of the new operator",
            seconds=60,
        )
    assert versions(mirror) == before


def test_the_operator_is_restricted(kube: Kube):
    (pod,) = kube.list("Pod", namespace=OPERATOR_NAMESPACE, selector=f"app={OPERATOR}")
    namespace = kube.get("Namespace", OPERATOR_NAMESPACE)
    assert namespace
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


def versions(mirror: Mirror) -> dict[str, str]:
    """The versions of the resource and its children."""
    return {
        kind: found["metadata"]["resourceVersion"]
        for kind in ("KVarNDeployment", *CHILDREN)
        for found in mirror.all(kind)
    }


def passes(kube: Kube, pod: str) -> float:
    """How many passes an operator has ended well."""
    try:
        told = kube.fetch(f"{proxy('pods', pod, namespace=OPERATOR_NAMESPACE, port=8080)}/metrics")
    except ApiException:
        return 0
    return view.metric(told, "kvarn_reconcile_total")
