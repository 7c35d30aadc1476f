"""The seam to the planner: a resource's spec in, a plan or the reason why there is none out."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from kvarn import planner
from kvarn_operator import learning
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.api.base import memory_bytes
from kvarn_operator.api.spec import Spec
from kvarn_operator.api.status import Lesson, MemoryLine
from kvarn_operator.api.status import Plan as PlanStatus
from kvarn_operator.observe import digest


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


def needs_product(spec: Spec) -> bool:
    """Whether the plan depends on which GPUs the cluster has."""
    accelerator = spec.accelerator
    return (
        accelerator.resource != "cpu" and accelerator.product is None and accelerator.memory is None
    )


def product(target: KVarNDeployment, products: Collection[str]) -> str:
    """The product that pods must land on; empty where none was asked for and memory is stated.

    Raises:
        planner.AcceleratorError: it has to be stated.
    """
    spec = target.spec
    if not needs_product(spec):
        return spec.accelerator.product or ""
    # Nodes that come and go must not unsettle what runs already.
    planned = target.status.plan
    if planned is not None and (planned.accelerator in products or _is_gpu(planned.accelerator)):
        return planned.accelerator
    if len(products) != 1:
        raise planner.AcceleratorError("UnknownAccelerator", _ask_for_product(products))
    return next(iter(products))


def plan(
    target: KVarNDeployment,
    shape: planner.ModelShape,
    products: Collection[str],
    *,
    image: str,
    lessons: Iterable[Lesson] = (),
    lesson: Lesson | None = None,
) -> Outcome:
    """The plan for `target`.

    Args:
        target: the resource.
        shape: the model's.
        products: ``nvidia.com/gpu.product`` labels of the cluster's nodes, if `needs_product`.
        image: that the servers run.
        lessons: what the resources of the namespace have learned.
        lesson: what to plan by instead, after a failure.
    """
    spec = target.spec
    try:
        gpu = product(target, products)
        accelerator = _accelerator(spec, gpu)
        key = _lesson_key(spec, shape, accelerator, image)
        basis = _basis(spec, key)
        known = lesson or learning.standing(target.status, key=key, basis=basis, others=lessons)
        result = planner.plan(
            shape,
            accelerator,
            workload=_workload(spec, shape),
            limits=_limits(spec),
            cache_format=spec.cache.format,
            correction=learning.correction(known),
        )
    except planner.PlannerError as error:
        return Unplanned(reason=error.reason, message=error.message)
    return Planned(plan=result, shape=shape, product=gpu, lesson=known, basis=basis)


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


def cpu_memory_bytes(spec: Spec) -> int:
    """Memory of a pod without accelerators: its limit, as stated, or the planner's default."""
    stated = spec.engine.resources.limits.get("memory") or spec.accelerator.memory
    return memory_bytes(stated) if stated else planner.Accelerator.cpu().memory_bytes


def _is_gpu(name: str) -> bool:
    try:
        return not planner.Accelerator.find(name).is_cpu
    except planner.PlannerError:
        return False


def _ask_for_product(products: Collection[str]) -> str:
    if not products:
        return (
            "No node that can be seen has the label nvidia.com/gpu.product: give"
            " accelerator.product or accelerator.memory, or accelerator.resource: cpu."
        )
    known = ", ".join(sorted(products))
    return f"The cluster has several GPU products ({known}): give accelerator.product."


def _accelerator(spec: Spec, product: str) -> planner.Accelerator:
    accelerator = spec.accelerator
    if accelerator.resource == "cpu":
        return planner.Accelerator.cpu(memory_bytes=cpu_memory_bytes(spec))
    memory = None if accelerator.memory is None else memory_bytes(accelerator.memory)
    name, _, profile = accelerator.resource.partition("/mig-")
    if product and profile and memory is None and "-MIG-" not in product:
        product = f"{product}-MIG-{profile}"
    return planner.Accelerator.find(product or name, count=accelerator.count, memory_bytes=memory)


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
