"""What someone changes or deletes comes back."""

import pytest

from demo import objects, view
from demo.kube import Kube, Manifest
from demo.mirror import Mirror
from demo.story import Story

REPAIR_SECONDS = 30


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget", "Deployment"])
def test_a_deleted_child_comes_back(story: Story, kube: Kube, mirror: Mirror, kind: str):
    """The pods, left without their Deployment, are taken over by the new one."""
    pods = {pod["metadata"]["uid"] for pod in story.servers}
    old = uid(mirror, kind)
    kube.delete(kind, view.NAME, namespace=objects.NAMESPACE, propagation="Orphan")
    mirror.until(
        lambda mirror: uid(mirror, kind) not in {old, ""},
        f"the {kind} back",
        seconds=REPAIR_SECONDS,
    )
    assert {pod["metadata"]["uid"] for pod in story.servers} == pods


EDITS = [
    pytest.param("Service", {"selector": {view.OWNER_LABEL: "other"}}, id="selector"),
    pytest.param("PodDisruptionBudget", {"maxUnavailable": "100%"}, id="budget"),
    pytest.param("Deployment", {"strategy": {"rollingUpdate": {"maxUnavailable": 1}}}, id="size"),
]


@pytest.mark.parametrize(("kind", "spec"), EDITS)
def test_an_edited_child_is_put_right(
    story: Story, kube: Kube, mirror: Mirror, kind: str, spec: Manifest
):
    wanted = (mirror.get(kind, view.NAME) or {})["spec"]
    before = version(mirror, kind)
    kube.patch(kind, view.NAME, namespace=objects.NAMESPACE, change={"spec": spec})
    mirror.until(
        lambda mirror: (
            version(mirror, kind) != before
            and (mirror.get(kind, view.NAME) or {})["spec"] == wanted
        ),
        f"the {kind} put right",
        seconds=REPAIR_SECONDS,
    )


def uid(mirror: Mirror, kind: str) -> str:
    """The identity of a child; empty where there is none."""
    return metadata(mirror, kind).get("uid", "")


def version(mirror: Mirror, kind: str) -> str:
    """The version of a child; empty where there is none."""
    return metadata(mirror, kind).get("resourceVersion", "")


def metadata(mirror: Mirror, kind: str) -> Manifest:
    """The metadata of a child; empty where there is none."""
    return (mirror.get(kind, view.NAME) or {}).get("metadata", {})
