"""The conditions of a resource, each a pure function of what is known.

``Ready`` sums up: True once the present spec is rolled out and serves (or is of size 0, as with a
Deployment), Unknown while it is being rolled out, False when nothing serves or a person has to act;
``Stalled`` is there only in that last case. With ``observedGeneration`` in each, ``kubectl wait``
and kstatus need no further help.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import ValidationError

from kvarn_operator import learning
from kvarn_operator.api.base import timestamp
from kvarn_operator.api.status import Condition, Lesson
from kvarn_operator.autoscale import Decision
from kvarn_operator.autoscalers import KINDS
from kvarn_operator.observe import Child, Failure, Pod
from kvarn_operator.planning import Outcome, Planned, Unplanned
from kvarn_operator.rollout import Rollout
from kvarn_operator.scene import Scene

GIB = 1 << 30
LONGEST_MESSAGE = 1024
EQUAL_SHARE = 0.01
"""By which equal servers may differ: warm starts of one set-up differ by a third of it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A condition without its bookkeeping."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def verdicts(scene: Scene) -> Iterator[tuple[str, Verdict]]:
    """All conditions, in the order in which they are read."""
    rollout = Rollout.read(scene.deployment)
    yield "Ready", _ready(scene, rollout)
    yield "Planned", _planned(scene.outcome)
    yield "MemoryFits", _memory_fits(scene)
    yield "Progressing", _progressing(scene, rollout)
    yield "Degraded", _degraded(scene, rollout)
    yield "ScalingActive", _scaling(scene)
    if stalled := _stalled(scene, rollout):
        yield "Stalled", stalled


def invalid(error: ValidationError) -> Iterator[tuple[str, Verdict]]:
    """Those of a spec that cannot be read: what runs is left alone, and a person has to act."""
    why = "; ".join(_place(each["loc"]) + each["msg"] for each in error.errors())
    for kind in ("Ready", "Planned", "Progressing", "ScalingActive"):
        yield kind, Verdict("False", "InvalidSpec", f"Correct {why}.")
    yield "Stalled", Verdict("True", "InvalidSpec", f"Correct {why}.")


def _place(location: tuple[int | str, ...]) -> str:
    return f"{'.'.join(map(str, location))}: "


def broken_off(error: Exception) -> Iterator[tuple[str, Verdict]]:
    """Those after a pass that a mistake of the operator ended: nobody knows the rest."""
    message = f"The operator failed ({type(error).__name__}: {error}): its log says where."
    yield "Ready", Verdict("Unknown", "PassFailed", message)
    yield "Degraded", Verdict("True", "PassFailed", message)


def merge(
    old: Iterable[Condition], new: Iterable[tuple[str, Verdict]], *, generation: int, now: datetime
) -> list[Condition]:
    """`new` verdicts as conditions; one whose status is as before keeps its time."""
    before = {condition.type: condition for condition in old}
    return [
        Condition(
            type=kind,
            status=verdict.status,
            reason=verdict.reason,
            message=verdict.message[:LONGEST_MESSAGE],
            last_transition_time=_since(before.get(kind), verdict, now),
            observed_generation=generation,
        )
        for kind, verdict in new
    ]


def _since(before: Condition | None, verdict: Verdict, now: datetime) -> str:
    if before is not None and before.status == verdict.status:
        return before.last_transition_time
    return timestamp(now)


def _ready(scene: Scene, rollout: Rollout) -> Verdict:
    if stalled := _stalled(scene, rollout):
        return Verdict("False", stalled.reason, stalled.message)
    if isinstance(scene.outcome, Unplanned):
        status: Literal["False", "Unknown"] = "Unknown" if rollout.ready else "False"
        return Verdict(status, scene.outcome.reason, scene.outcome.message)
    if rollout.wanted == 0 and scene.deployment:
        return Verdict("True", "ScaledToZero", "The size is 0, as is asked: nothing serves.")
    if not rollout.ready:
        return Verdict("False", "Starting", "No replica is ready yet.")
    if not rollout.complete:
        return Verdict("Unknown", "RollingOut", "Replicas of the last spec are being replaced.")
    return Verdict("True", "Serving", "The present spec is rolled out and serves.")


def _planned(outcome: Outcome) -> Verdict:
    if isinstance(outcome, Planned):
        return Verdict("True", "Planned", outcome.plan.reason)
    return Verdict("Unknown" if outcome.waiting else "False", outcome.reason, outcome.message)


def _memory_fits(scene: Scene) -> Verdict:
    """By plan, unless a server of this plan has found otherwise."""
    outcome = scene.outcome
    if isinstance(outcome, Unplanned):
        status: Literal["False", "Unknown"] = "False" if outcome.is_about_memory else "Unknown"
        return Verdict(status, outcome.reason, outcome.message)
    for pod, failure in scene.failures():
        if learning.is_about_memory(failure):
            return Verdict("False", failure.reason, _words(pod, failure))
    plan = outcome.plan
    total, left = plan.line("total"), plan.line("left")
    return Verdict(
        "True",
        "Fits",
        f"{_size(total - left)} of {_size(total)} on {outcome.accelerator} are planned,"
        f" {_size(plan.cache_bytes)} of them for a cache of {plan.cache_tokens:,} tokens."
        f"{_retried(outcome.lesson)}",
    )


def _retried(lesson: Lesson) -> str:
    """What failed starts have changed; empty if none has."""
    if not lesson.retries:
        return ""
    return (
        f" Start {lesson.retries + 1} of {learning.MOST_RETRIES + 1}, corrected by"
        f" {lesson.bytes:,} bytes and {lesson.points} points of utilisation: {lesson.failure}"
    )


def _size(size_bytes: int) -> str:
    if size_bytes < GIB:
        return f"{size_bytes / (1 << 20):.1f} MiB"
    return f"{size_bytes / GIB:.2f} GiB"


def _progressing(scene: Scene, rollout: Rollout) -> Verdict:
    if stalled := _stalled(scene, rollout):
        return Verdict("False", stalled.reason, "Nothing moves until a person acts.")
    if isinstance(scene.outcome, Unplanned):
        return Verdict("True", scene.outcome.reason, scene.outcome.message)
    if waits := _unschedulable(scene):
        return Verdict("True", "Unschedulable", waits)
    if not rollout.complete:
        return Verdict("True", "RollingOut", "Replicas of the present spec are starting.")
    if rollout.ready < rollout.wanted:
        return Verdict("True", "Scaling", f"The size is going to {rollout.wanted}.")
    return Verdict("False", "Settled", "Everything is as it should be.")


def _unschedulable(scene: Scene) -> str:
    """The scheduler's words on servers that no node takes, and how many they are; often empty."""
    words = [pod.unschedulable for pod in scene.observed.servers if pod.unschedulable]
    return f"{len(words)} of {len(scene.observed.servers)} pods wait: {words[0]}" if words else ""


def _degraded(scene: Scene, rollout: Rollout) -> Verdict:
    for pod, failure in scene.failures():
        return Verdict("True", failure.reason, _words(pod, failure))
    for pod in scene.observed.servers:
        if pod.waiting in _STUCK:
            return Verdict("True", pod.waiting, f"{pod.name} waits: {_STUCK[pod.waiting]}.")
    if rollout.blocked:
        return Verdict("True", "PodsRefused", rollout.blocked)
    if scene.unannotated:
        return Verdict("True", "AnnotationRefused", scene.unannotated)
    if unequal := _unequal(scene.capacities):
        return Verdict("True", "UnequalCapacity", unequal)
    return Verdict("False", "NoFailures", "No replica fails.")


def _unequal(capacities: Mapping[str, int]) -> str:
    """Which server holds clearly fewer tokens than its siblings; empty if none does."""
    if len(capacities) < 2:
        return ""
    least, most = (choose(capacities, key=lambda pod: capacities[pod]) for choose in (min, max))
    missing = 1 - capacities[least] / capacities[most]
    if missing <= EQUAL_SHARE:
        return ""
    return (
        f"{least} holds {capacities[least]:,} tokens and {most} {capacities[most]:,},"
        f" {missing:.1%} fewer: it started with a cold compile cache or beside another process;"
        " delete it to start it again."
    )


_STUCK = {
    "ImagePullBackOff": "its image cannot be pulled; correct engine.image",
    "ErrImagePull": "its image cannot be pulled; correct engine.image",
    "ErrImageNeverPull": "its image is not on the node; load it there",
    "InvalidImageName": "the name of its image is wrong; correct engine.image",
    "CreateContainerConfigError": "a Secret or ConfigMap that it refers to is missing",
    "CreateContainerError": "its container cannot be created; see the pod's events",
    "CrashLoopBackOff": "a container of it ends again and again; see its log",
}


def _words(pod: Pod, failure: Failure) -> str:
    numbers = ", ".join(f"{name} {value}" for name, value in failure.numbers.items())
    again = f" Restarts: {pod.restarts}." if pod.restarts else ""
    return f"{pod.name}: {failure.message}{f' ({numbers})' if numbers else ''}{again}"


def _scaling(scene: Scene) -> Verdict:
    if scene.unowned:
        return Verdict("False", "NoOwner", scene.unowned)
    rules = scene.target.spec.autoscaling
    if scene.decision is not None and rules is not None and rules.mode in KINDS:
        return _outside(scene, scene.decision, KINDS[rules.mode])
    if scene.decision is not None:
        status: Literal["True", "False"] = "True" if scene.decision.active else "False"
        return Verdict(status, scene.decision.reason, scene.decision.message)
    if rules is None or rules.mode == "none":
        return Verdict("False", "Disabled", "The size is whatever spec.replicas says.")
    return Verdict("False", "NotPlanned", "The size stays until there is a plan.")


def _outside(scene: Scene, decision: Decision, kind: str) -> Verdict:
    """What the controller that owns the size is told, or why it does not act on that."""
    if scene.told is None:
        return Verdict("False", decision.reason, decision.message)
    owner = scene.observed.children.get((kind, scene.target.metadata.name))
    says = _obstacle(owner) if owner else {}
    if says:
        return Verdict("False", says.get("reason", "NoOwner"), f"{kind}: {says.get('message')}")
    if scene.told == scene.desired:
        return Verdict("True", decision.reason, decision.message)
    return Verdict("True", decision.reason, f"The {kind} is told a size of {scene.told}.")


_OBSTACLES: dict[str, tuple[tuple[str, str], ...]] = {
    "HorizontalPodAutoscaler": (("ScalingActive", "False"),),
    "ScaledObject": (
        ("Ready", "False"),
        ("Paused", "True"),
        ("Fallback", "True"),
        ("HPAActive", "False"),
    ),
}
"""By these conditions the owner of the size says that it does not act on what it is told."""


def _obstacle(owner: Child) -> Mapping[str, str]:
    """The first such condition; empty if there is none."""
    said = ((owner.condition(kind), status) for kind, status in _OBSTACLES[owner.kind])
    return next(
        (
            condition
            for condition, status in said
            # At a size of zero nobody asks a HorizontalPodAutoscaler to act.
            if condition.get("status") == status and condition.get("reason") != "ScalingDisabled"
        ),
        {},
    )


def _stalled(scene: Scene, rollout: Rollout) -> Verdict | None:
    """What a person has to act on; None if it may still come right by itself."""
    outcome = scene.outcome
    if isinstance(outcome, Unplanned) and not outcome.waiting:
        return Verdict("True", outcome.reason, outcome.message)
    if scene.refused:
        return Verdict("True", "ChildRefused", scene.refused)
    if rollout.failed and not any(
        pod.unschedulable or pod.is_loading for pod in scene.present_servers
    ):
        said = next((_words(pod, failure) for pod, failure in scene.failures()), rollout.failed)
        return Verdict("True", "RolloutFailed", said)
    return None
