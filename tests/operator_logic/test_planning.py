"""From the spec to a plan, or to the reason why there is none."""

from collections.abc import Collection
from dataclasses import fields
from typing import get_args

import pytest

from kvarn.planner import FORMATS, ModelShape
from kvarn.planner.camel import camel
from kvarn.planner.layer_kind import LayerKind as PlannedKind
from kvarn_operator import planning
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.api.model import LayerKind, Shape
from kvarn_operator.api.spec import Format
from kvarn_operator.api.status import Plan
from kvarn_operator.planning import Outcome, Planned, Unplanned
from tests.operator_logic.builders import IMAGE, QWEN3_8B, gpu_target, planned, target

SHAPE = ModelShape.from_dict(QWEN3_8B)
H100, H200 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-H200"


def plan(of: KVarNDeployment, products: Collection[str]) -> Outcome:
    """The plan where nodes say which product they have, and nothing else of it."""
    seen = {product: {"nvidia.com/gpu.product": product} for product in products}
    return planning.plan(of, SHAPE, seen, image=IMAGE)


def without_product(**accelerator: object) -> KVarNDeployment:
    return gpu_target(accelerator=accelerator)


def test_the_api_offers_exactly_the_planners_formats() -> None:
    assert set(get_args(Format)) == {"auto", *FORMATS}


def test_the_api_has_exactly_the_planners_shape() -> None:
    given = Shape.model_validate(QWEN3_8B).model_dump(by_alias=True)

    assert ModelShape.from_dict(given) == SHAPE
    assert given.keys() == {camel(field.name) for field in fields(ModelShape)}
    assert set(LayerKind.model_fields) == {field.name for field in fields(PlannedKind)}


def test_fixed_limits_stand_in_the_plan() -> None:
    spec = {"context": {"maxTokens": 1024}, "batching": {"maxSequences": 3}}

    plan = planned(target(**spec, workload={"concurrency": 2})).plan

    assert (plan.max_model_tokens, plan.max_sequences) == (1024, 3)


def test_what_a_workload_leaves_unsaid_fits_the_context() -> None:
    spec = {"context": {"maxTokens": 300}, "workload": {"promptTokens": 100}}

    assert planned(target(**spec)).plan.max_model_tokens == 300


def test_the_memory_of_a_cpu_pod_is_its_limit() -> None:
    limits = {"resources": {"limits": {"memory": "3Gi"}}}

    assert (
        planned(target(accelerator={"resource": "cpu"}, engine=limits)).plan.line("total")
        == 3 << 30
    )


def test_the_one_product_of_the_cluster_needs_no_mention() -> None:
    outcome = plan(without_product(), {H100})

    assert isinstance(outcome, Planned)
    assert outcome.product == H100


def test_several_products_ask_for_a_choice() -> None:
    outcome = plan(without_product(), {H100, H200})

    assert isinstance(outcome, Unplanned)
    assert H100 in outcome.message
    assert "give accelerator.product" in outcome.message


@pytest.mark.parametrize("products", [{H100, H200}, {H200}, ()], ids=["more", "another", "none"])
def test_nodes_that_come_and_go_do_not_unsettle_a_plan(products: Collection[str]) -> None:
    """A spot node that is replaced, or one whose labels are late, rolls nothing."""
    first = plan(without_product(), {H100})
    assert isinstance(first, Planned)
    status = without_product().status.model_copy(update={"plan": planning.to_status(first)})
    again = without_product().model_copy(update={"status": status})

    outcome = plan(again, products)

    assert isinstance(outcome, Planned)
    assert outcome.product == H100


def test_what_was_planned_for_cpus_is_no_product() -> None:
    first = planned(target())
    assert first.accelerator == "cpu"
    status = target().status.model_copy(update={"plan": planning.to_status(first)})

    outcome = plan(without_product().model_copy(update={"status": status}), {H200})

    assert isinstance(outcome, Planned)
    assert outcome.product == H200


def test_a_slice_of_a_gpu_has_its_share_of_the_memory() -> None:
    outcome = plan(without_product(resource="nvidia.com/mig-3g.40gb"), {H100})

    assert isinstance(outcome, Planned)
    assert outcome.plan.accelerator.product == "H100-80GB-HBM3-MIG-3g.40gb"


def test_what_does_not_fit_says_so_with_numbers() -> None:
    outcome = plan(gpu_target(accelerator={"product": "Tesla-T4"}), ())

    assert isinstance(outcome, Unplanned)
    assert outcome.is_about_memory
    assert "GiB" in outcome.message


def test_the_status_has_the_account_line_by_line() -> None:
    status = planning.to_status(planned(gpu_target()))

    lines = {line.name: line.bytes for line in status.memory}
    assert lines["weights"] == SHAPE.weight_bytes
    assert sum(lines.values()) == 2 * lines["total"]
    assert Plan.model_validate(status.model_dump(by_alias=True)) == status


def standing(of: KVarNDeployment, *, cache_format: str) -> KVarNDeployment:
    """`of` with a plan in its status that another release of the operator made."""
    made = planning.to_status(planned(of)).model_copy(
        update={"format": cache_format, "reason": "as it was"}
    )
    status = of.status.model_copy(update={"plan": made})
    return of.model_copy(update={"status": status})


BUSY = {"concurrency": 512}


def test_the_format_that_serves_stays_where_auto_would_choose_another_now() -> None:
    of = gpu_target(workload=BUSY)
    assert planned(of).plan.format != "bf16"

    again = planned(standing(of, cache_format="bf16"))

    assert (again.plan.format, again.plan.reason) == ("bf16", "as it was")


def test_an_edit_chooses_the_format_anew() -> None:
    of = gpu_target(workload=BUSY)
    edited = gpu_target(workload={"concurrency": 500})
    status = standing(of, cache_format="bf16").status

    again = planned(edited.model_copy(update={"status": status}))

    assert again.plan.format == planned(edited).plan.format != "bf16"


def test_a_format_that_no_longer_serves_is_chosen_anew() -> None:
    of = gpu_target(workload=BUSY)

    again = planned(standing(of, cache_format="retired"))

    assert again.plan == planned(of).plan


@pytest.mark.parametrize(
    "args",
    [["--enable-expert-parallel"], ["--enable_expert_parallel"], ["--moe-backend=marlin"], ["-ep"]],
)
def test_experts_that_are_not_shared_by_their_width_divide_as_they_like(args: list[str]) -> None:
    narrow = {"kind": "routed", "width": 768, "group": 128}
    shape = SHAPE.to_dict() | {
        "quantization": "compressed-tensors",
        "experts": 128,
        "expertsPerToken": 8,
        "mlps": [narrow],
    }

    def outcome(**engine: object) -> Outcome:
        of = gpu_target(accelerator={"product": H100, "count": 4}, engine=engine)
        return planning.plan(of, ModelShape.from_dict(shape), {}, image=IMAGE)

    refused = outcome()
    assert isinstance(refused, Unplanned)
    assert "routed experts of width 768 do not divide among 4 devices" in refused.message
    assert isinstance(outcome(args=args), Planned)
