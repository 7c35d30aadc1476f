"""What a server has to lose, and in which order servers come and go."""

from dataclasses import replace
from typing import Any

from kvarn_operator import render
from kvarn_operator.leaving import Notes, deletion_costs, evictions
from kvarn_operator.observe import LOCAL_VOLUMES, PROTECTION, Pod
from kvarn_operator.readings import Reading, Spoken
from kvarn_operator.scrape import Sample
from tests.operator_logic.builders import CONFIG, NOW, SHAPE, later, planned, target

IDLE = Sample(usage=0.0, running=0, waiting=0, cache_tokens=8000)


def reading(sample: Sample, *past: Sample) -> Reading:
    return Reading(at=later(60), sample=sample, past=tuple(Spoken(NOW, each) for each in past))


def cost(sample: Sample, *past: Sample) -> int:
    return deletion_costs({"demo-1": reading(sample, *past)}, planned_tokens=4000)["demo-1"]


def test_an_idle_server_has_nothing_to_lose() -> None:
    assert cost(IDLE) == 0


def test_the_tokens_of_running_requests_would_be_lost() -> None:
    assert cost(replace(IDLE, usage=0.25, running=3)) == 2000
    assert cost(replace(IDLE, usage=0.25, running=3, cache_tokens=0)) == 1000


def test_what_prompts_found_in_the_prefix_cache_would_have_to_be_computed_again() -> None:
    before = replace(IDLE, prompt_tokens=1000, computed_tokens=1000)
    after = replace(IDLE, prompt_tokens=4000, computed_tokens=1500)

    assert cost(after, before) == 2500


def test_a_cost_is_coarse_so_that_it_is_not_written_at_each_look() -> None:
    assert cost(replace(IDLE, usage=0.2501)) == cost(replace(IDLE, usage=0.2502)) == 2000


def told(pod: Pod, **spec: Any) -> Notes | None:
    """What is written on a pod so that node autoscalers know."""
    return evictions(target(**spec), [pod]).get("demo-1")


READY = Pod(name="demo-1", ready=True)
MOVABLE = {**dict.fromkeys(PROTECTION), LOCAL_VOLUMES: "tmp,model"}


def test_a_ready_server_may_be_moved_though_it_has_files_on_its_node() -> None:
    assert told(READY) == told(replace(READY, eviction=frozenset(PROTECTION))) == MOVABLE
    assert told(replace(READY, eviction=frozenset({LOCAL_VOLUMES}))) is None


def test_a_server_that_leaves_is_kept_where_it_is() -> None:
    leaving = replace(READY, deleting=True, eviction=frozenset({LOCAL_VOLUMES}))

    assert told(leaving) == {**PROTECTION, LOCAL_VOLUMES: None}


def test_a_model_on_a_host_path_keeps_its_server_there() -> None:
    on_host = {"source": "host:///srv/demo", "shape": SHAPE}

    assert told(READY, model=on_host) == MOVABLE | {LOCAL_VOLUMES: "tmp"}


def test_what_the_pod_template_says_on_volumes_stays() -> None:
    mine = {"metadata": {"annotations": {LOCAL_VOLUMES: "tmp,scratch"}}}

    assert told(READY, podTemplate=mine) is None


def test_a_roll_out_starts_the_new_server_before_the_old_one_goes() -> None:
    spec = render.deployment(target(), planned(target()), CONFIG)["spec"]

    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_nodes_are_emptied_one_server_at_a_time() -> None:
    spec = render.disruption_budget(target())["spec"]

    assert spec["maxUnavailable"] == 1
    assert spec["selector"]["matchLabels"]["serving.kvarn.dev/deployment"] == "demo"
