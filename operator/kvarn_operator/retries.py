"""The plan, and what becomes of it when servers that were started with it run out of memory."""

from kvarn import planner
from kvarn_operator import learning, planning
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.observe import Observed
from kvarn_operator.planning import Outcome, Unplanned
from kvarn_operator.scene import Scene


def plan(
    target: KVarNDeployment,
    observed: Observed,
    shape: planner.ModelShape,
    products: frozenset[str],
) -> Outcome:
    """The plan; a corrected one if servers of the present one have run out of memory."""
    outcome = planning.plan(target, shape, products, lessons=observed.lessons)
    scene = Scene(target=target, outcome=outcome, observed=observed)
    failed = next(((p, f) for p, f in scene.failures() if learning.is_about_memory(f)), None)
    if failed is None or isinstance(outcome, Unplanned):
        return outcome
    pod, failure = failed
    if (made := target.status.plan) and made.basis != outcome.basis:
        return outcome  # what failed was started by another plan
    if outcome.lesson.template == pod.template_hash:
        return outcome  # this failure is in the account already
    lesson = learning.after_failure(outcome.lesson, outcome.plan, failure, pod.template_hash)
    if lesson is not None:
        again = planning.plan(target, shape, products, lesson=lesson)
        if isinstance(again, Unplanned) or again.plan.vllm_flags() != outcome.plan.vllm_flags():
            return again
    return Unplanned(reason=failure.reason, message=learning.exhausted(outcome.lesson, failure))
