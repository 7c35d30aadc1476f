"""The plan, and what becomes of it when no server starts with it for lack of memory."""

from kvarn import planner
from kvarn_operator import learning, planning
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.gpus import Products
from kvarn_operator.observe import Failure, Observed, Pod
from kvarn_operator.planning import Outcome, Planned, Unplanned
from kvarn_operator.scene import Scene


def plan(
    target: KVarNDeployment,
    observed: Observed,
    shape: planner.ModelShape,
    products: Products,
    *,
    image: str,
) -> Outcome:
    """The plan; a corrected one if no server of the present one has started for lack of memory."""
    outcome = planning.plan(target, shape, products, image=image, lessons=observed.lessons)
    if isinstance(outcome, Unplanned):
        return outcome
    failed = _failed_start(Scene(target=target, outcome=outcome, observed=observed), outcome)
    if failed is None:
        return outcome
    pod, failure = failed
    lesson = learning.after_failure(outcome.lesson, outcome.plan, failure, pod.template_hash)
    if lesson is not None:
        again = planning.plan(target, shape, products, image=image, lesson=lesson)
        if isinstance(again, Unplanned) or again.plan.vllm_flags() != outcome.plan.vllm_flags():
            return again
    return Unplanned(reason=failure.reason, message=learning.exhausted(outcome.lesson, failure))


def _failed_start(scene: Scene, present: Planned) -> tuple[Pod, Failure] | None:
    """A start that shows that the plan takes too much memory; None if that is not known.

    A server that ran out of memory after one with this plan had served says nothing about starts.
    """
    made = scene.target.status.plan
    if scene.has_served or (made and made.basis != present.basis):
        return None
    for pod, failure in scene.failures():
        in_the_account = pod.template_hash == present.lesson.template
        if learning.is_about_the_plan(failure, present.plan) and not in_the_account:
            return pod, failure
    return None
