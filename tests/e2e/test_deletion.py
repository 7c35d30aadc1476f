"""Deleting removes everything that belongs to a resource, and nothing else."""

from demo import view
from demo.kube import Kube
from demo.mirror import Mirror
from demo.story import Story, sample

TENANT = "kvarn-tenant"


def test_a_namespace_goes_with_all_that_is_in_it(story: Story, kube: Kube):
    """In one call, as a pipeline removes a tenant; servers elsewhere go on."""
    before = {pod["metadata"]["uid"] for pod in story.servers}
    shape = view.status(story.resource)["model"]["shape"]
    tenants = sample(model={"source": "pvc://demo-model/demo", "shape": shape})
    tenants["metadata"]["namespace"] = TENANT
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TENANT}}, tenants)
    with Mirror(kube, TENANT, ("Pod",)) as mirror:
        mirror.until(lambda mirror: bool(mirror.all("Pod")), "the tenant's server", seconds=60)
        kube.delete("Namespace", TENANT)
        mirror.until(
            lambda _: kube.get("Namespace", TENANT) is None, "the namespace's end", seconds=60
        )
    assert {pod["metadata"]["uid"] for pod in story.servers} == before


def test_nothing_is_left(story: Story):
    """The finalizer is released; no child and no pod stays."""
    story.delete()
    assert story.left_over() == []
