"""What starts teach, and how often a failed one is tried again."""

from typing import Any

import pytest

from kvarn_operator import learning, planning, render, retries, status
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.api.status import Lesson, Status
from kvarn_operator.conditions import verdicts
from kvarn_operator.observe import Child, Failure, Observed, Pod, lessons
from kvarn_operator.planning import Outcome, Planned, Unplanned
from kvarn_operator.pressure import Fleet
from kvarn_operator.readings import Reading
from kvarn_operator.scene import Scene
from kvarn_operator.scrape import Sample
from tests.operator_logic.builders import CONFIG, IMAGE, NOW, gpu_target, planned, target

GIB = 1 << 30
FULL = Failure(
    reason="OutOfMemory",
    message="The device ran out of memory.",
    numbers={"requested_bytes": GIB, "free_bytes": GIB // 2, "total_bytes": 79 * GIB},
)


def too_long(plan: planning.planner.Plan, missing_bytes: int) -> Failure:
    """VLLM's second ValueError: the cache has so much less memory than was planned."""
    left = plan.cache_bytes - missing_bytes
    return Failure(reason="ContextTooLong", message="Too long.", numbers={"available_bytes": left})


def failing(*, template: str, failure: Failure) -> Observed:
    """A Deployment whose only server has failed."""
    pod = Pod(name="demo-1", template_hash=template, failure=failure, restarts=1)
    deployment = Child(kind="Deployment", name="demo", template_hash=template)
    return Observed.of([deployment], [pod])


def after(of: KVarNDeployment, outcome: Outcome, **readings: Reading) -> KVarNDeployment:
    """The resource with the status of a pass that ended so."""
    scene = Scene(target=of, outcome=outcome, observed=Observed())
    new = status.build(scene, fleet=Fleet(), readings=readings, now=NOW)
    return of.model_copy(update={"status": Status.model_validate(status.dump(new))})


def taught(of: KVarNDeployment, *, share: float = 0.9) -> KVarNDeployment:
    """The resource after a start whose cache held this share of what was planned."""
    made = planned(of)
    tokens = round(share * made.plan.cache_tokens)
    lesson = learning.after_start(made.lesson, made.plan, cache_tokens=tokens, cache_bytes=0)
    started = after(of, made)
    update = {"lessons": [lesson]}
    return started.model_copy(update={"status": started.status.model_copy(update=update)})


def edited(of: KVarNDeployment, **spec: Any) -> KVarNDeployment:
    """The resource after an edit of its spec."""
    body = of.model_dump(by_alias=True, exclude_none=True)
    body["metadata"]["generation"] += 1
    return KVarNDeployment.model_validate(body | {"spec": body["spec"] | spec})


def tight_target() -> KVarNDeployment:
    """A resource on a GPU that the model nearly fills."""
    return gpu_target(accelerator={"product": "NVIDIA-L4"}, cache={"format": "fp8"})


def again(of: KVarNDeployment, observed: Observed) -> Outcome:
    return retries.plan(of, observed, planned(of).shape, {}, image=IMAGE)


def test_where_nothing_was_left_the_account_lacked_the_whole_cache() -> None:
    """VLLM's first ValueError, in the releases that say no number."""
    made = planned(tight_target())
    nothing = Failure(reason="InsufficientMemory", message="No memory is left.")

    lesson = learning.after_failure(made.lesson, made.plan, nothing, "t1")

    assert lesson
    assert (lesson.bytes, lesson.points) == (made.plan.cache_bytes, 0)


def test_what_vllm_had_left_is_what_the_account_lacked() -> None:
    made = planned(gpu_target())

    lesson = learning.after_failure(made.lesson, made.plan, too_long(made.plan, GIB), "t1")

    assert lesson
    assert (lesson.bytes, lesson.points, lesson.retries) == (GIB, 0, 1)


def test_a_full_device_is_used_less() -> None:
    made = planned(gpu_target())

    lesson = learning.after_failure(made.lesson, made.plan, FULL, "t1")

    assert lesson
    assert (lesson.bytes, lesson.points) == (0, learning.LEAST_POINTS)


def test_a_killed_container_gets_a_smaller_cache() -> None:
    made = planned(target())
    killed = Failure(reason="OOMKilled", message="The container ended with status 137.")

    lesson = learning.after_failure(made.lesson, made.plan, killed, "t1")

    assert lesson
    assert lesson.bytes == pytest.approx(0.05 * made.plan.line("total"), abs=1)


def test_a_correction_stays_within_bounds() -> None:
    made = planned(gpu_target())
    far_off = too_long(made.plan, made.plan.cache_bytes)

    assert learning.after_failure(made.lesson, made.plan, far_off, "t1") is None


def test_a_failed_start_is_planned_again_three_times_and_then_no_more() -> None:
    of, made = tight_target(), planned(tight_target())
    seen: list[Outcome] = []
    for attempt in range(5):
        failure = too_long(made.plan, GIB // 4)
        outcome = again(of, failing(template=f"t{attempt}", failure=failure))
        seen.append(outcome)
        of = after(of, outcome)
        made = outcome if isinstance(outcome, Planned) else made

    retries = [outcome.lesson.retries for outcome in seen if isinstance(outcome, Planned)]
    assert retries == [1, 2, 3]
    last = seen[-1]
    assert isinstance(last, Unplanned)
    assert last.reason == "ContextTooLong"
    assert "3 corrected starts (0.75 GiB" in last.message
    assert "lower context.maxTokens" in last.message


def test_one_failure_is_corrected_once() -> None:
    of = tight_target()
    observed = failing(template="t1", failure=too_long(planned(of).plan, GIB // 4))
    first = again(of, observed)

    second = again(after(of, first), observed)

    assert isinstance(first, Planned)
    assert isinstance(second, Planned)
    assert second.plan == first.plan


def test_what_a_person_fixed_is_not_changed() -> None:
    accelerator = {"product": "NVIDIA-H100-80GB-HBM3", "utilizationPercent": 98}
    of = gpu_target(accelerator=accelerator)

    outcome = again(of, failing(template="t1", failure=FULL))

    assert isinstance(outcome, Unplanned)
    assert "lower context.maxTokens" in outcome.message


KILLED = Failure(reason="OOMKilled", message="The container ended with status 137 (OOMKilled).")
HOST_FULL = (
    KILLED,
    Failure(reason="OutOfMemory", message="The server was killed."),
    Failure(reason="OutOfMemory", message="No.", numbers={"requested_bytes": 123456}),
)


@pytest.mark.parametrize("failure", HOST_FULL, ids=["kubelet", "signal", "allocation"])
def test_a_pods_own_memory_is_raised_by_a_person_and_not_taken_from_the_device(
    failure: Failure,
) -> None:
    of, observed = tight_target(), failing(template="t1", failure=failure)

    outcome = again(of, observed)

    assert outcome == planned(of)
    said = dict(verdicts(Scene(target=of, outcome=outcome, observed=observed)))
    assert (said["MemoryFits"].status, said["MemoryFits"].reason) == ("False", failure.reason)
    assert "raise engine.resources.limits.memory" in said["MemoryFits"].message
    assert said["Degraded"].message == said["MemoryFits"].message


def test_a_device_that_is_full_does_not_hide_behind_a_killed_sibling() -> None:
    pods = [
        Pod(name=name, template_hash="t1", failure=failure)
        for name, failure in (("a", KILLED), ("b", FULL))
    ]
    deployment = Child(kind="Deployment", name="demo", template_hash="t1")

    outcome = again(gpu_target(), Observed.of([deployment], pods))

    assert isinstance(outcome, Planned)
    assert outcome.lesson.points == learning.LEAST_POINTS


def test_a_plan_that_once_served_is_not_made_anew_for_all() -> None:
    made = planned(gpu_target())
    of = after(gpu_target(), made, a=reading(made.plan.cache_tokens))
    observed = failing(template="t1", failure=FULL)

    outcome = again(of, observed)

    assert outcome == made
    said = dict(verdicts(Scene(target=of, outcome=outcome, observed=observed)))
    assert (said["Degraded"].status, said["Degraded"].reason) == ("True", "OutOfMemory")


def test_a_server_that_is_ready_speaks_for_the_plan_before_it_is_measured() -> None:
    of = gpu_target()
    observed = failing(template="t1", failure=FULL)
    ready = Pod(name="demo-2", template_hash="t1", ready=True)

    outcome = again(of, Observed.of(observed.children.values(), [*observed.pods, ready]))

    assert outcome == planned(of)


def test_the_numbers_stand_in_a_condition() -> None:
    of = tight_target()
    outcome = again(of, failing(template="t1", failure=too_long(planned(of).plan, GIB // 4)))

    said = dict(verdicts(Scene(target=of, outcome=outcome, observed=Observed())))
    assert "Start 2 of 4, corrected by 268,435,456 bytes" in said["MemoryFits"].message


def test_a_good_start_teaches_without_rolling_its_own_pods() -> None:
    assert again(taught(gpu_target()), Observed()) == planned(gpu_target())


@pytest.mark.parametrize(
    "edit",
    [{"replicas": 2}, {"autoscaling": {"maxReplicas": 4}}, {"drainSeconds": 60}],
    ids=lambda edit: next(iter(edit)),
)
def test_an_edit_that_is_not_about_the_plan_keeps_it(edit: dict[str, Any]) -> None:
    before = gpu_target(replicas=1)
    made = planned(before)

    assert again(edited(taught(before), **edit), Observed()) == made


def test_a_change_of_size_rolls_no_pod() -> None:
    before = tight_target()
    of = edited(taught(before), replicas=2)
    outcome = again(of, Observed())
    assert isinstance(outcome, Planned)

    assert render.template(of, outcome, CONFIG) == render.template(before, planned(before), CONFIG)


@pytest.mark.parametrize(
    "edit",
    [{"context": {"maxTokens": 8192}}, {"workload": {"promptTokens": 9000}}],
    ids=lambda edit: next(iter(edit)),
)
def test_an_edit_of_what_the_plan_is_made_from_plans_by_what_was_learned(
    edit: dict[str, Any],
) -> None:
    before = gpu_target()

    outcome = again(edited(taught(before, share=0.98), **edit), Observed())

    assert isinstance(outcome, Planned)
    lacked = 0.02 * planned(before).plan.cache_bytes
    assert outcome.plan.line("learned") == pytest.approx(lacked, rel=0.01)


def test_another_plan_is_not_blamed_for_the_failure_of_the_last() -> None:
    of = edited(after(tight_target(), planned(tight_target())), context={"maxTokens": 2048})
    failure = too_long(planned(tight_target()).plan, GIB // 4)

    outcome = again(of, failing(template="t1", failure=failure))

    assert outcome == planned(of)


def test_another_plan_has_its_own_three_tries() -> None:
    of, made = tight_target(), planned(tight_target())
    lesson = made.lesson.model_copy(update={"bytes": GIB // 4, "retries": 3, "template": "t1"})
    status = of.status.model_copy(update={"lessons": [lesson]})

    outcome = again(edited(of.model_copy(update={"status": status}), replicas=2), Observed())

    assert isinstance(outcome, Planned)
    assert outcome.lesson == lesson.model_copy(update={"retries": 0})


def test_other_resources_plan_by_a_lesson_with_their_key() -> None:
    made = planned(gpu_target())
    lesson = made.lesson.model_copy(update={"bytes": GIB})

    outcome = again(gpu_target(), Observed(lessons=(lesson, Lesson(key="another", bytes=9 * GIB))))

    assert isinstance(outcome, Planned)
    assert outcome.plan.line("learned") == GIB


def test_a_key_tells_flags_and_models_apart() -> None:
    keys = {
        planned(of).lesson.key
        for of in (
            gpu_target(),
            gpu_target(engine={"args": ["--enforce-eager"]}),
            gpu_target(cache={"format": "fp8"}),
            gpu_target(accelerator={"product": "NVIDIA-H200"}),
            gpu_target(engine={"env": [{"name": "VLLM_USE_DEEP_GEMM", "value": "1"}]}),
            gpu_target(podTemplate={"spec": {"runtimeClassName": "shared"}}),
        )
    }

    assert len(keys) == 6
    assert planned(gpu_target()).lesson.key in keys


def test_a_key_tells_images_apart_the_operators_own_too() -> None:
    first, second = (planned(gpu_target(), image=image) for image in ("serving:1", "serving:2"))

    assert first.lesson.key != second.lesson.key


@pytest.mark.parametrize("share", [0.999, 1.0, 1.001])
def test_an_error_within_the_usual_teaches_nothing(share: float) -> None:
    made = planned(gpu_target())

    tokens = round(share * made.plan.cache_tokens)
    lesson = learning.after_start(made.lesson, made.plan, cache_tokens=tokens, cache_bytes=0)

    assert lesson == made.lesson


def test_lessons_survive_the_operator() -> None:
    """They are read back from the statuses of all resources."""
    kept = Lesson(key="k", bytes=GIB, points=2)
    body = {"status": {"lessons": [kept.model_dump(by_alias=True)]}}

    assert lessons(body) == [kept]
    assert lessons({}) == []
    assert lessons({"status": {"lessons": [{"older": True}]}}) == []


def reading(tokens: int) -> Reading:
    return Reading(at=NOW, sample=Sample(usage=0, running=0, waiting=0, cache_tokens=tokens))


def degraded(of: KVarNDeployment, outcome: Planned, **capacities: int) -> Any:
    scene = Scene(target=of, outcome=outcome, observed=Observed(), capacities=capacities)
    return dict(verdicts(scene))["Degraded"]


def test_a_server_with_another_capacity_than_its_siblings_is_flagged() -> None:
    of = gpu_target()
    verdict = degraded(of, planned(of), a=1000, b=1000, c=900)

    assert (verdict.status, verdict.reason) == ("True", "UnequalCapacity")
    assert verdict.message.startswith("c holds 900 tokens and a 1,000, 10.0% fewer")


def test_warm_starts_of_one_setup_are_equal() -> None:
    of = gpu_target()

    assert degraded(of, planned(of), a=1000, b=997).status == "False"


def test_the_smallest_and_the_largest_cache_stand_in_the_status() -> None:
    of = gpu_target()
    made = planned(of)
    plan = planning.to_status(made)

    found = status.measured(plan, {"a": reading(900), "b": reading(1000)})

    assert found
    assert (found.cache_tokens, found.most_cache_tokens, found.replicas) == (900, 1000, 2)
