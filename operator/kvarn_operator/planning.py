"""The seam to the planner: a resource's spec in, a plan or the reason why there is none out."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from kvarn import planner
from kvarn_operator import learning
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.api.spec import Spec
from kvarn_operator.api.status import Lesson, MemoryLine
from kvarn_operator.api.status import Plan as PlanStatus
from kvarn_operator.gpus import Products, candidates, product
from kvarn_operator.observe import digest

WHOLE_EXPERTS = {
    "--enable-expert-parallel",
    "-ep",
    "--moe-backend",
    "--kernel-config",
    "--kernel-config.moe-backend",
}
"""Arguments of the engine with which experts are not shared by their width, or padded."""
UNSAID = "give accelerator.memory, which no node that is seen says"
"""What the planner's «state its memory» means here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan that fits.

    Attributes:
        product: the nodes' ``nvidia.com/gpu.product`` that it is for; empty if any will do.
        lesson: what earlier starts taught.
        basis: digest of what the plan was made from, the lesson apart.
    """

    plan: planner.Plan
    shape: planner.ModelShape
    product: str = ""
    lesson: Lesson
    basis: str

    @property
    def accelerator(self) -> str:
        """Name of what was planned for."""
        return self.product or self.plan.accelerator.product


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplanned:
    """Why there is no plan.

    Attributes:
        reason: CamelCase, for a condition.
        message: one sentence with the numbers and the remedy.
        waiting: whether it will pass by itself.
    """

    reason: str
    message: str
    waiting: bool = False

    @property
    def is_about_memory(self) -> bool:
        """Whether the reason is that memory is too small."""
        return self.reason in learning.MEMORY_REASONS


Outcome = Planned | Unplanned


def plan(
    target: KVarNDeployment,
    shape: planner.ModelShape,
    products: Products,
    *,
    image: str,
    lessons: Iterable[Lesson] = (),
    lesson: Lesson | None = None,
) -> Outcome:
    """The plan for `target`.

    Args:
        target: the resource.
        shape: the model's.
        products: of the cluster, if `gpus.needs_nodes`.
        image: that the servers run.
        lessons: what the resources of the namespace have learned.
        lesson: what to plan by instead, after a failure.
    """
    try:
        gpu = product(target, products)
        accelerator, key, basis = _made_from(target, shape, gpu, products.get(gpu, {}), image)
        known = lesson or learning.standing(target.status, key=key, basis=basis, others=lessons)
        standing = target.status.plan
        if standing and (standing.basis, standing.lesson) != (basis, known):
            standing = None
        made = _planned(target.spec, shape, accelerator, learning.correction(known), standing)
    except planner.PlannerError as error:
        message = error.message.replace("state its memory", UNSAID)
        return Unplanned(reason=error.reason, message=message)
    return Planned(plan=made, shape=shape, product=gpu, lesson=known, basis=basis)


def _made_from(
    target: KVarNDeployment,
    shape: planner.ModelShape,
    product: str,
    labels: Mapping[str, str],
    image: str,
) -> tuple[planner.Accelerator, str, str]:
    """The accelerator, the lesson's key and the basis: those of the plan that stands, if possible.

    Raises:
        planner.AcceleratorError: the GPU is not known.
    """
    standing = target.status.plan
    for accelerator in candidates(target, product, labels):
        key = _lesson_key(target.spec, shape, accelerator, image)
        basis = _basis(target.spec, key)
        if standing is not None and standing.basis == basis:
            break
    return accelerator, key, basis


def _planned(
    spec: Spec,
    shape: planner.ModelShape,
    accelerator: planner.Accelerator,
    correction: planner.Correction,
    standing: PlanStatus | None,
) -> planner.Plan:
    """The plan, in the format of the one that was made from the same, if that still fits.

    Neither a node's labels nor a planner that would choose otherwise give a server another cache.

    Raises:
        planner.PlannerError: there is none.
    """

    def solved(cache_format: str) -> planner.Plan:
        return planner.plan(
            _dealt(spec, shape),
            accelerator,
            workload=_workload(spec, shape),
            limits=_limits(spec),
            cache_format=cache_format,
            correction=correction,
        )

    if standing:
        with suppress(planner.PlannerError):
            return replace(solved(standing.format), reason=standing.reason)
    return solved(spec.cache.format)


def _dealt(spec: Spec, shape: planner.ModelShape) -> planner.ModelShape:
    """The shape without widths that accelerators do not share: of experts that each has whole."""
    words = (word for argument in spec.engine.args for word in argument.split())
    if WHOLE_EXPERTS.isdisjoint(word.partition("=")[0].replace("_", "-") for word in words):
        return shape
    return replace(shape, mlps=tuple(mlp for mlp in shape.mlps if mlp.kind != "routed"))


def _lesson_key(
    spec: Spec, shape: planner.ModelShape, accelerator: planner.Accelerator, image: str
) -> str:
    """What a lesson is about: model, accelerator, and all that a person can change of the servers.

    The length of the context is none of it: the same memory holds longer requests or more of them.
    """
    engine, limits = spec.engine, _limits(spec)
    return digest(
        [
            shape.to_dict(),
            [accelerator.product, accelerator.memory_bytes, accelerator.count],
            [planner.DEFAULT_VERSION, image],
            [engine.args, [variable.model_dump() for variable in engine.env], spec.pod_template],
            spec.cache.format,
            [limits.max_sequences, limits.max_batched_tokens, limits.utilization_percent],
        ]
    )


def _basis(spec: Spec, key: str) -> str:
    """What a plan is made from: what its lesson is about, and the requests that are asked for."""
    workload = spec.workload.model_dump() if spec.workload else None
    return digest([key, workload, spec.context.max_tokens])


def to_status(planned: Planned) -> PlanStatus:
    """The plan as it stands in ``.status.plan``."""
    plan = planned.plan
    return PlanStatus(
        format=plan.format,
        reason=plan.reason,
        accelerator=planned.accelerator,
        memory=[MemoryLine(name=line.name, bytes=line.size_bytes) for line in plan.account],
        cache_tokens=plan.cache_tokens,
        max_tokens=plan.max_model_tokens,
        max_sequences=plan.max_sequences,
        max_batched_tokens=plan.max_batched_tokens,
        lesson=planned.lesson,
        basis=planned.basis,
    )


def _workload(spec: Spec, shape: planner.ModelShape) -> planner.Workload | None:
    if spec.workload is None:
        return None
    longest = _limits(spec).max_model_tokens or shape.max_position_tokens
    return planner.Workload.stated(longest, **spec.workload.model_dump(exclude_none=True))


def _limits(spec: Spec) -> planner.Limits:
    return planner.Limits(
        max_model_tokens=_fixed(spec.context.max_tokens),
        max_sequences=_fixed(spec.batching.max_sequences),
        max_batched_tokens=_fixed(spec.batching.max_batched_tokens),
        utilization_percent=spec.accelerator.utilization_percent,
    )


def _fixed(value: int | str) -> int | None:
    return value if isinstance(value, int) else None
