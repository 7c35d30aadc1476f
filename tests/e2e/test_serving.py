"""A resource that was applied serves from a quantised cache, as planned."""

from demo import objects, view
from demo.kube import Kube
from demo.mirror import Mirror
from demo.story import PROMPT, Story

CACHE_FORMAT = "kvarn_k4v2_g128"


def test_the_service_completes_a_prompt(story: Story, kube: Kube):
    body = {"model": view.NAME, "prompt": PROMPT, "max_tokens": 200, "temperature": 0}
    words = list(kube.completion(view.NAME, namespace=objects.NAMESPACE, body=body))
    assert len(words) > 100
    assert sum(word.strip().isalpha() for word in words) > 0.7 * len(words)


def test_the_tokens_come_out_of_the_quantised_cache(story: Story, mirror: Mirror):
    for pod in view.ready_servers(mirror.all("Pod")):
        assert f'cache_dtype="{CACHE_FORMAT}"' in story.metrics(pod)


def test_the_plan_is_what_vllm_measures(story: Story):
    """Within two per cent, and several times the tokens of bf16 in the same memory."""
    story.compare()
    figures = story.seen.before
    assert figures is not None
    assert abs(figures.error_percent) <= 2
    assert figures.gain > 3


def test_conditions_say_that_all_is_well(story: Story):
    wanted = {"Ready": "True", "Planned": "True", "MemoryFits": "True", "Degraded": "False"}
    for kind, status in wanted.items():
        assert view.condition(story.resource, kind)["status"] == status


def test_pods_run_restricted(mirror: Mirror, story: Story):
    """The namespace would not have admitted them otherwise; nothing was loosened."""
    (pod,) = story.servers
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    assert not pod["spec"]["automountServiceAccountToken"]
