"""The status of a resource, as a pure function of what a pass has found."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from kvarn_operator import conditions, learning, planning
from kvarn_operator.api.status import (
    Checkpoint,
    Lesson,
    Measured,
    Plan,
    Pressure,
    PressureParts,
    Status,
)
from kvarn_operator.conditions import Verdict
from kvarn_operator.observe import SERVER
from kvarn_operator.planning import Planned
from kvarn_operator.pods import selector
from kvarn_operator.pressure import PARTS, Fleet, Part, Parts, coarse
from kvarn_operator.readings import Reading
from kvarn_operator.render import PORT
from kvarn_operator.rollout import Rollout
from kvarn_operator.scene import Scene
from kvarn_operator.scrape import Sample


def build(
    scene: Scene,
    *,
    fleet: Fleet,
    readings: Mapping[str, Reading],
    learnt: Checkpoint | None = None,
    now: datetime,
) -> Status:
    """The status that `scene` amounts to.

    Args:
        scene: what was found and done.
        fleet: the ready servers.
        readings: metrics of the servers that run the present template.
        learnt: by the autoscaler; it is written only along with something else.
        now: the time, for conditions that change.
    """
    target = scene.target
    old, meta = target.status, target.metadata
    rollout = Rollout.read(scene.deployment)
    plan = planning.to_status(scene.outcome) if isinstance(scene.outcome, Planned) else old.plan
    pods = selector(target, component=SERVER)
    new = Status(
        conditions=conditions.merge(
            old.conditions, conditions.verdicts(scene), generation=meta.generation, now=now
        ),
        observed_generation=meta.generation,
        model=scene.model,
        plan=plan,
        measured=measured(plan, readings) or (old.measured if plan == old.plan else None),
        lessons=learning.remembered(old.lessons, _lesson(scene, readings)),
        pressure=pressure(fleet),
        replicas=rollout.replicas,
        ready_replicas=rollout.ready,
        loading_replicas=sum(pod.is_loading for pod in scene.observed.servers),
        draining_replicas=len(scene.observed.draining),
        desired_replicas=scene.desired,
        selector=",".join(f"{name}={value}" for name, value in sorted(pods.items())),
        url=f"http://{meta.name}.{meta.namespace}.svc:{PORT}",
        last_scale=scene.last_scale,
        checkpoint=old.checkpoint,
    )
    if learnt is None or dump(new) == dump(old):
        return new
    return new.model_copy(update={"checkpoint": learnt})


def amended(
    old: Status, verdicts: Iterable[tuple[str, Verdict]], *, generation: int, now: datetime
) -> Status:
    """`old` with these conditions, where no pass has found the rest.

    ``Stalled`` is there only as long as it is said.
    """
    said = conditions.merge(old.conditions, verdicts, generation=generation, now=now)
    types = {condition.type for condition in said} | {"Stalled"}
    kept = [condition for condition in old.conditions if condition.type not in types]
    return old.model_copy(update={"conditions": [*said, *kept], "observed_generation": generation})


def _lesson(scene: Scene, readings: Mapping[str, Reading]) -> Lesson | None:
    """What is known after this pass: of a start that went well, or of one that was corrected."""
    if not isinstance(scene.outcome, Planned):
        return None
    lesson, plan = scene.outcome.lesson, scene.outcome.plan
    samples = [reading.sample for reading in readings.values() if reading.sample.cache_tokens]
    if not samples:
        status = scene.target.status
        kept = [known for known in status.lessons if known.key == lesson.key]
        is_new = status.plan is None or status.plan.lesson != lesson
        return lesson if is_new or not kept else kept[0]
    least = min(samples, key=lambda sample: sample.cache_tokens)
    return learning.after_start(
        lesson, plan, cache_tokens=least.cache_tokens, cache_bytes=least.cache_bytes
    )


def dump(status: Status) -> dict[str, Any]:
    """The status as JSON; what is not known is left out."""
    return status.model_dump(by_alias=True, exclude_none=True)


def measured(plan: Plan | None, readings: Mapping[str, Reading]) -> Measured | None:
    """What the servers report of their caches; None while none has."""
    samples = [reading.sample for reading in readings.values() if reading.sample.cache_tokens]
    if plan is None or not samples:
        return None
    least = min(samples, key=lambda sample: sample.cache_tokens)
    return Measured(
        cache_tokens=least.cache_tokens,
        cache_bytes=least.cache_bytes or None,
        error_permille=round(1000 * (least.cache_tokens - plan.cache_tokens) / plan.cache_tokens),
        most_cache_tokens=_most(samples),
        replicas=len(samples),
    )


def _most(samples: list[Sample]) -> int | None:
    """The largest cache of several, if they differ."""
    sizes = {sample.cache_tokens for sample in samples}
    return max(sizes) if len(sizes) > 1 else None


def pressure(fleet: Fleet) -> Pressure | None:
    """The pressure in coarse steps; None without a fresh server."""
    fullest = fleet.fullest
    if fullest is None or fleet.percent is None:
        return None
    return Pressure(
        percent=coarse(fleet.percent),
        limited_by=_largest(fullest.parts),
        parts=_parts(fullest.parts),
        fresh_replicas=len(fleet.servers) + fleet.asleep,
        stale_replicas=len(fleet.stale),
    )


def _largest(parts: Parts) -> Part:
    """The largest part as it is shown: of several that are 0, always the same one."""
    return max(PARTS, key=lambda part: coarse(100 * parts[part]))


def _parts(parts: Parts) -> PressureParts:
    return PressureParts(
        cache=coarse(100 * parts.cache),
        compute=coarse(100 * parts.compute),
        running=coarse(100 * parts.running),
        waiting=coarse(100 * parts.waiting),
        preemptions=coarse(100 * parts.preemptions),
        rejections=coarse(100 * parts.rejections),
    )
