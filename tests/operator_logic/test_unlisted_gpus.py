"""GPUs that the planner's table lacks: what the spec states and what their nodes say of them."""

import random
from collections.abc import Mapping
from typing import Any

import pytest

from kvarn.planner import Accelerator, ModelShape
from kvarn_operator import planning
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.gpus import Products, by_product, needs_nodes
from kvarn_operator.planning import Outcome, Planned, Unplanned
from kvarn_operator.pods import PRODUCT_LABEL
from tests.operator_logic.builders import IMAGE, QWEN3_8B, gpu_target

SHAPE = ModelShape.from_dict(QWEN3_8B)
H100, H200, Z1 = "NVIDIA-H100-80GB-HBM3", "NVIDIA-H200", "NVIDIA-Z1"
MIB = 1 << 20
BUSY = {"workload": {"concurrency": 512}}
SLICE = "nvidia.com/mig-3g.40gb"


def labels(product: str = Z1, *, memory: str | None = "49152", **more: str) -> dict[str, str]:
    """What GPU feature discovery says of a node; with underscores for dots."""
    said = {"product": product, "memory": memory, "compute.major": "9", "compute.minor": "0"}
    said |= {name.replace("_", "."): value for name, value in more.items()}
    return {f"nvidia.com/gpu.{name}": value for name, value in said.items() if value is not None}


NODE = labels()
SEEN: Products = {Z1: NODE}


def target(spec: Mapping[str, Any] = BUSY, **accelerator: object) -> KVarNDeployment:
    return gpu_target(accelerator=accelerator, **spec)


def plan(of: KVarNDeployment, products: Products = SEEN, *, image: str = IMAGE) -> Outcome:
    heads = (
        {"name": product, "labels": {PRODUCT_LABEL: product, **said}}
        for product, said in products.items()
    )
    seen = by_product({"metadata": head} for head in heads)
    return planning.plan(of, SHAPE, seen, image=image)


def planned(of: KVarNDeployment, products: Products = SEEN) -> Planned:
    outcome = plan(of, products)
    assert isinstance(outcome, Planned), outcome
    return outcome


def after(first: Planned, of: KVarNDeployment) -> KVarNDeployment:
    """`of` once the first plan stands in its status."""
    status = of.status.model_copy(update={"plan": planning.to_status(first)})
    return of.model_copy(update={"status": status})


@pytest.mark.parametrize("accelerator", [{}, {"product": Z1}], ids=["the only one", "by name"])
def test_a_node_says_what_its_gpu_has_and_can(accelerator: dict[str, str]) -> None:
    outcome = planned(target(**accelerator))

    assert outcome.product == Z1
    assert outcome.plan.line("total") == pytest.approx(49152 * MIB, rel=0.03)
    assert outcome.plan.format.startswith("kvarn")


@pytest.mark.parametrize("memory", ["49152", "-1", None])
def test_stated_memory_wins_and_the_node_says_what_the_gpu_can(memory: str | None) -> None:
    outcome = planned(target(product=Z1, memory="40Gi"), {Z1: labels(memory=memory)})

    assert outcome.plan.line("total") == 40 << 30
    assert outcome.plan.accelerator.capability == 9.0


def test_where_nothing_is_said_a_gpu_of_stated_memory_reads_what_every_gpu_reads() -> None:
    assert planned(target(product=Z1, memory="40Gi"), {}).plan.format == "bf16"


@pytest.mark.parametrize("accelerator", [{"product": H100}, {"product": H100, "memory": "40Gi"}])
def test_a_gpu_of_the_table_is_what_the_table_says(accelerator: dict[str, str]) -> None:
    lying = {H100: labels(H100, memory="1", compute_major="7")}

    assert not needs_nodes(target(**accelerator).spec)
    assert planned(target(**accelerator), lying) == planned(target(**accelerator), {})
    assert planned(target(), lying).plan == planned(target(product=H100), {}).plan


@pytest.mark.parametrize(
    ("accelerator", "needed"),
    [
        ({}, True),
        ({"product": Z1}, True),
        ({"product": Z1, "memory": "40Gi"}, True),
        ({"product": H100, "resource": "nvidia.com/mig-7g.400gb"}, True),
        ({"product": H100, "resource": SLICE}, False),
        ({"memory": "40Gi"}, False),
        ({"resource": "cpu"}, False),
    ],
)
def test_nodes_are_asked_where_neither_spec_nor_table_knows(
    accelerator: dict[str, str], needed: bool
) -> None:
    assert needs_nodes(target(**accelerator).spec) is needed


SENSELESS = ["", "0", "-49152", "48Gi", "1.5", "1e5", "NaN", "٣٢", "9" * 16, "9" * 63]


@pytest.mark.parametrize("memory", [None, *SENSELESS])
@pytest.mark.parametrize("accelerator", [{}, {"product": Z1}], ids=["the only one", "by name"])
def test_memory_that_no_node_says_has_to_be_stated(
    accelerator: dict[str, str], memory: str | None
) -> None:
    outcome = plan(target(**accelerator), {Z1: labels(memory=memory)})

    assert isinstance(outcome, Unplanned)
    assert outcome.reason == "UnknownAccelerator"
    assert f"No GPU is known as {Z1}" in outcome.message
    assert outcome.message.endswith("give accelerator.memory, which no node that is seen says.")


@pytest.mark.parametrize("major", ["", "-9", "nine", "9" * 63])
def test_a_gpu_of_which_nobody_knows_what_it_can_reads_what_every_gpu_reads(major: str) -> None:
    assert planned(target(), {Z1: labels(compute_major=major)}).plan.format == "bf16"


def test_whatever_labels_say_there_is_a_plan_that_the_status_holds_or_a_sentence() -> None:
    chance = random.Random(7)

    def word() -> str:
        return "".join(chance.choices("0123456789.-aZ_", k=chance.choice([0, 1, 5, 63])))

    for _ in range(50):
        said = {name: word() for name in NODE if chance.random() < 0.8}
        outcome = plan(target(product=Z1), {Z1: said})
        if isinstance(outcome, Planned):
            assert max(line.size_bytes for line in outcome.plan.account) < 1 << 63
        else:
            assert outcome.message.endswith(".")


def test_a_slice_has_the_memory_that_the_node_says_of_slices() -> None:
    node = NODE | {f"{SLICE}.product": f"{Z1}-MIG-3g.40gb", f"{SLICE}.memory": "40448"}

    outcome = planned(target(resource=SLICE), {Z1: node})

    assert outcome.product == Z1
    assert outcome.plan.accelerator.is_instance
    assert outcome.plan.line("total") == pytest.approx(40448 * MIB, rel=0.03)


def test_a_whole_gpus_memory_is_not_a_slices() -> None:
    assert isinstance(plan(target(resource=SLICE)), Unplanned)


def test_other_resources_with_gpus_of_the_node_are_whole_ones() -> None:
    assert planned(target(resource="nvidia.com/gpu.shared")).plan == planned(target()).plan


@pytest.mark.parametrize(
    "products",
    [
        {},
        {H200: labels(H200)},
        {H200: labels(H200), **SEEN},
        {Z1: labels(memory="49140")},
        {Z1: labels(memory="52000", compute_major="")},
        {Z1: labels(memory="none")},
        {Z1: {}},
    ],
    ids=["none", "another", "more", "driver", "incomplete", "senseless", "unlabelled"],
)
@pytest.mark.parametrize(
    "accelerator",
    [{}, {"product": Z1}, {"product": Z1, "memory": "40Gi"}],
    ids=["the only one", "by name", "of stated memory"],
)
def test_a_node_that_comes_or_goes_leaves_the_plan_as_it_stands(
    accelerator: dict[str, str], products: Products
) -> None:
    first = planned(target(**accelerator))

    again = planned(after(first, target(**accelerator)), products)

    assert planning.to_status(again) == planning.to_status(first)
    assert again.product == first.product
    assert again.plan.vllm_flags() == first.plan.vllm_flags()


@pytest.mark.parametrize("before", [{}, {Z1: labels(compute_major="")}], ids=["none", "incomplete"])
def test_a_node_that_says_what_the_gpu_can_leaves_the_format_that_serves(before: Products) -> None:
    stated = target(product=Z1, memory="40Gi")
    first = planned(stated, before)
    assert first.plan.format == "bf16"

    again = planned(after(first, stated))

    assert again.plan.vllm_flags() == first.plan.vllm_flags()
    assert planning.to_status(again) == planning.to_status(first)


@pytest.mark.parametrize(
    ("of", "image"),
    [
        (target(BUSY | {"context": {"maxTokens": 4096}}), IMAGE),
        (target(product=Z1, count=2), IMAGE),
        (target(product=Z1), "example/server:next"),
    ],
    ids=["context", "count", "image"],
)
def test_a_pool_without_nodes_is_planned_for_as_it_was(of: KVarNDeployment, image: str) -> None:
    first = planned(target(product=Z1))

    outcome = plan(after(first, of), {}, image=image)

    assert isinstance(outcome, Planned)
    assert outcome.plan.line("total") == first.plan.line("total")


def test_auto_undoes_a_format_that_was_asked_for_by_name() -> None:
    named = target(BUSY | {"cache": {"format": "kvarn_k4v4_g128"}}, memory="40Gi")
    first = planned(named, {})
    assert first.plan.format == "kvarn_k4v4_g128"

    assert planned(after(first, target(memory="40Gi")), {}).plan.format == "bf16"


def test_a_node_of_less_memory_that_comes_and_goes_unsettles_the_plan_once() -> None:
    """Error correction takes a sixteenth."""
    less = {Z1: labels(memory="46080")}
    first = planned(target())

    smaller = planned(after(first, target()), less)
    again = planned(after(smaller, target()))

    assert smaller.plan.line("total") < first.plan.line("total")
    assert again == smaller


def test_a_node_that_comes_back_finds_the_plan_unchanged() -> None:
    first = planned(target())

    gone = planned(after(first, target()), {})

    assert planned(after(gone, target())) == first


@pytest.mark.parametrize("memory", [98304, 46080])
def test_a_node_that_says_clearly_otherwise_is_believed(memory: int) -> None:
    first = planned(target())

    again = planned(after(first, target()), {Z1: labels(memory=str(memory))})

    assert again.plan.line("total") == int(0.98 * memory * MIB)


@pytest.mark.parametrize(
    "edited",
    [target(product=Z1, resource=SLICE), target(product="NVIDIA-Z2")],
    ids=["slice", "product"],
)
def test_another_gpu_than_the_one_that_was_planned_for_needs_a_node_or_a_statement(
    edited: KVarNDeployment,
) -> None:
    first = planned(target(product=Z1))

    outcome = plan(after(first, edited), {})

    assert isinstance(outcome, Unplanned)
    assert "give accelerator.memory" in outcome.message


def test_a_slice_of_some_memory_is_what_it_was_before_slices_had_names() -> None:
    """Its name stands in the digest that a lesson is kept by."""
    stated = target(product=Z1, resource=SLICE, memory="40Gi")

    assert planned(stated, {}).plan.accelerator.product == Z1
    assert planned(target(resource=SLICE, memory="40Gi"), {}).accelerator == "nvidia.com"


def test_what_one_node_leaves_out_another_says() -> None:
    cut = node("b") | {}
    cut["metadata"]["labels"] |= {f"{SLICE}.product": f"{Z1}-MIG-3g.40gb-SHARED"}
    cut["metadata"]["labels"] |= {f"{SLICE}.memory": "40448"}
    seen = by_product([node("a", compute_major=""), cut])

    outcome = planning.plan(target(resource=SLICE), SHAPE, seen, image=IMAGE)

    assert isinstance(outcome, Planned), outcome
    assert outcome.plan.accelerator.product == f"{Z1}-MIG-3g.40gb"
    assert outcome.plan.accelerator.capability == 9.0
    gone = planning.plan(after(outcome, target(resource=SLICE)), SHAPE, {}, image=IMAGE)
    assert isinstance(gone, Planned), gone
    assert planning.to_status(gone) == planning.to_status(outcome)


def test_memory_that_is_no_longer_stated_is_what_the_node_says() -> None:
    stated = planned(target(product=Z1, memory="40Gi"))

    assert planned(after(stated, target(product=Z1))) == planned(target(product=Z1))


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", SLICE])
def test_what_was_planned_for_any_gpu_of_some_memory_is_no_product(resource: str) -> None:
    anywhere = planned(target(resource=resource, memory="40Gi"), {})

    outcome = planned(after(anywhere, target()), {H200: labels(H200)})

    assert outcome.product == H200


def node(name: str, **said: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels(**said)}}


def test_of_several_nodes_with_a_product_all_have_what_the_least_memory_is() -> None:
    nodes = [
        node("c", memory="49140"),
        node("d", memory="9999", product=H100),
        node("a", memory="49152"),
        node("b", memory="1.5"),
        node("e", memory="-1"),
    ]

    found = by_product(nodes)

    assert found == by_product(nodes[::-1])
    assert found[Z1]["nvidia.com/gpu.memory"] == "49140"
    assert found.keys() == {H100, Z1}


def test_a_node_without_gpus_has_no_product() -> None:
    assert by_product([node("a", product="")]) == {}
    assert by_product([]) == {}


def test_the_table_has_none_of_these() -> None:
    with pytest.raises(ValueError, match="No GPU is known"):
        Accelerator.find(Z1)
