"""What real starts teach: how far off the account was, and how to start again after a failure.

A lesson belongs to a model, an accelerator and what the servers run: its key. It stands in the
status of the resources that learned it, so it outlives the operator, and any resource of the same
namespace with the same key plans by it. A plan keeps the lesson that it was made with until what it
was made from changes: what is learned from a start that went well never rolls the pods that taught
it, nor does an edit of the spec that is not about the plan.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import ceil

from kvarn.planner import Correction, Plan
from kvarn_operator.api.status import Lesson, Status
from kvarn_operator.observe import Failure

NOTHING_LEFT = "InsufficientMemory"
MEMORY_REASONS = frozenset({NOTHING_LEFT, "ContextTooLong", "OutOfMemory"})
"""Reasons, of the planner and of the launcher, that say that memory is too small."""
KILLED = "OOMKilled"
"""The kubelet's word for a container that outgrew its limit."""

MOST_RETRIES = 3
LARGEST_SHARE = 0.25
"""Of a device's memory, what a correction may amount to."""
MOST_POINTS = 20
LEAST_POINTS = 2
UNTOLD_SHARE = 0.05
"""Of a device's memory, what is missing where nobody says how much."""
MARGIN_BYTES = 256 << 20
WORTH_SHARE = 0.005
"""Of the cache, an error that is worth a change of the lesson."""
KEPT = 8


def standing(status: Status, *, key: str, basis: str, others: Iterable[Lesson]) -> Lesson:
    """The lesson to plan by.

    Args:
        status: of the resource; while the plan there is made from the same, so is its lesson.
        key: of the lesson.
        basis: what the plan is made from.
        others: lessons of all resources of the namespace.
    """
    if (made := status.plan) and made.lesson and made.basis == basis:
        return made.lesson
    known = [lesson for lesson in (*status.lessons, *others) if lesson.key == key]
    careful = max(known, key=lambda lesson: (lesson.points, lesson.bytes), default=None)
    # What was tried for another plan does not count against this one.
    return careful.model_copy(update={"retries": 0}) if careful else Lesson(key=key)


def correction(lesson: Lesson) -> Correction:
    """The lesson as the planner takes it."""
    return Correction(size_bytes=lesson.bytes, utilization_points=lesson.points)


def is_about_memory(failure: Failure) -> bool:
    """Whether a start failed for lack of memory."""
    return failure.reason in MEMORY_REASONS or failure.reason == KILLED


def is_about_the_plan(failure: Failure, plan: Plan) -> bool:
    """Whether a plan that takes less memory would have helped."""
    return is_about_memory(failure) and (plan.accelerator.is_cpu or not is_about_the_pod(failure))


def is_about_the_pod(failure: Failure) -> bool:
    """Whether it was the pod's own memory: of a device, the launcher says how much was free."""
    return failure.reason in {"OutOfMemory", KILLED} and "free_bytes" not in failure.numbers


def explained(failure: Failure, *, on_cpu: bool) -> Failure:
    """The failure, with what a person has to do where no plan can help.

    On the CPU the pod's memory is the plan's; beside a device it is nobody's but the person's.
    """
    if on_cpu or not is_about_the_pod(failure):
        return failure
    remedy = (
        "the pod's own memory was too small, not the device's: raise"
        " engine.resources.limits.memory, or requests.memory where there is no limit."
    )
    return replace(failure, message=f"{failure.message.rstrip('.')}; {remedy}")


def after_failure(lesson: Lesson, plan: Plan, failure: Failure, template: str) -> Lesson | None:
    """The lesson of a start that failed for lack of memory.

    Args:
        lesson: that the start was planned by.
        plan: of the start.
        failure: how it ended, with what the launcher measured.
        template: hash of the pod template that failed.

    Returns:
        None where no more is to be tried: after three corrections, or beyond the bounds.
    """
    size_bytes, points = _missing(plan, failure)
    total = plan.line("total")
    lesson = lesson.model_copy(
        update={
            "bytes": lesson.bytes + size_bytes,
            "points": lesson.points + points,
            "retries": lesson.retries + 1,
            "template": template,
            "failure": failure.message[:512],
        }
    )
    within = lesson.bytes <= LARGEST_SHARE * total and lesson.points <= MOST_POINTS
    return lesson if within and lesson.retries <= MOST_RETRIES else None


def _missing(plan: Plan, failure: Failure) -> tuple[int, int]:
    """Bytes that the cache must do without, and hundredths of the device that vLLM must."""
    total, numbers = plan.line("total"), failure.numbers
    left = numbers.get("available_bytes", 0 if failure.reason == NOTHING_LEFT else None)
    if left is not None and "free_bytes" not in numbers:
        # vLLM says what was left, or that nothing was; so much was the account wrong.
        return max(plan.cache_bytes - left, 0), 0
    if plan.accelerator.is_cpu:
        return max(numbers.get("requested_bytes", 0), ceil(UNTOLD_SHARE * total)), 0
    wanted = numbers.get("wanted_bytes", numbers.get("requested_bytes", 0) + MARGIN_BYTES)
    missing = wanted - numbers.get("free_bytes", 0)
    return 0, max(ceil(100 * missing / total), LEAST_POINTS)


def after_start(lesson: Lesson, plan: Plan, *, cache_tokens: int, cache_bytes: int) -> Lesson:
    """The lesson of a start that went well.

    Args:
        lesson: that the start was planned by.
        plan: of the start.
        cache_tokens: what the cache holds, of the smallest replica.
        cache_bytes: its memory, 0 where vLLM does not say: then it follows from the tokens.
    """
    measured = cache_bytes or round(plan.cache_bytes * cache_tokens / plan.cache_tokens)
    missing = plan.cache_bytes - measured
    if plan.accelerator.is_cpu or abs(missing) < WORTH_SHARE * plan.cache_bytes:
        missing = 0
    bound = round(LARGEST_SHARE * plan.line("total"))
    size_bytes = max(-bound, min(lesson.bytes + missing, bound))
    return lesson.model_copy(update={"bytes": size_bytes, "retries": 0, "template": ""})


def remembered(old: Iterable[Lesson], new: Lesson | None) -> list[Lesson]:
    """The lessons of a resource, the newest first; a lesson that says nothing is not kept."""
    if new is None:
        return list(old)
    others = [lesson for lesson in old if lesson.key != new.key]
    kept = [new] if new.bytes or new.points or new.retries else []
    return [*kept, *others][:KEPT]


def exhausted(lesson: Lesson, failure: Failure) -> str:
    """Why nothing more is tried, and what to change: one sentence."""
    gib = lesson.bytes / (1 << 30)
    tried = (
        f"{lesson.retries} corrected starts ({gib:.2f} GiB and {lesson.points} points of"
        " utilisation less) did not help"
        if lesson.retries
        else "nothing that is left to the planner would help"
    )
    return (
        f"{failure.message.rstrip('.')}; {tried}: lower context.maxTokens or"
        " batching.maxSequences, or give a larger accelerator."
    )
