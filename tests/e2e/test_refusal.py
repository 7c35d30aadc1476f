"""Bad input is refused with a remedy, and what runs goes on as it was."""

from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException

from demo import view
from demo.kube import Kube
from demo.mirror import Mirror
from demo.story import Story, sample

BAD = [
    pytest.param({"model": {"source": "s3://bucket"}}, "give hf://org/name", id="source"),
    pytest.param({"replicas": 2}, "replicas has one owner", id="two owners of the size"),
    pytest.param({"engine": {"args": ["--port=1"]}}, "these flags are planned", id="flags"),
    pytest.param({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}, "minReplicas", id="min"),
]


@pytest.mark.parametrize(("change", "remedy"), BAD)
def test_a_bad_spec_is_refused_at_apply(kube: Kube, change: dict[str, Any], remedy: str):
    with pytest.raises(ApiException) as refused:
        kube.apply(sample(**change))
    assert refused.value.status == 422
    assert remedy in str(refused.value.body)


def test_what_does_not_fit_becomes_a_condition_and_pods_go_on(
    story: Story, kube: Kube, mirror: Mirror
):
    """The message has numbers; no pod is replaced."""
    before = {pod["metadata"]["uid"] for pod in story.servers}
    kube.apply(sample(context={"maxTokens": 10_000_000}))

    def refused(_: Mirror) -> bool:
        planned = view.condition(story.resource, "Planned")
        assert story.resource
        return (
            planned["status"] == "False"
            and planned["observedGeneration"] == story.resource["metadata"]["generation"]
        )

    mirror.until(refused, "a condition", seconds=30)
    message = view.condition(story.resource, "Planned")["message"]
    assert any(character.isdigit() for character in message)
    assert {pod["metadata"]["uid"] for pod in story.servers} == before
    assert story.ready == len(before)
