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
