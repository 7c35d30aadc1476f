"""What is read of a resource, also where nobody but the operator can refuse it."""

from typing import Any

import pytest
from pydantic import ValidationError

from kvarn_operator import render
from kvarn_operator.api import Head, KVarNDeployment
from kvarn_operator.api.base import memory_bytes
from tests.operator_logic.builders import CONFIG, body, planned, target


@pytest.mark.parametrize(
    "spec",
    [
        {"accelerator": {"resource": "cpu", "memory": "lots"}},
        {"engine": {"resources": {"limits": {"memory": "1.5.5Gi"}}}},
        {"engine": {"resources": {"limits": {"memory": "-1Gi"}}}},
        {"podTemplate": "x"},
        {"podTemplate": {"spec": "x"}},
        {"podTemplate": {"spec": {"containers": [{"image": "x"}]}}},
        {"podTemplate": {"spec": {"containers": ["x"]}}},
        {"podTemplate": {"spec": {"volumes": [{"name": {}}]}}},
        {"podTemplate": {"spec": {"containers": [{"name": "server", "volumeMounts": [{}]}]}}},
    ],
    ids=str,
)
def test_what_cannot_be_rendered_is_no_spec(spec: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        target(**spec)


@pytest.mark.parametrize(
    "quantity",
    ["", "Gi", "1.2.3", "1 Gi", "1KiB", "1K", "-1", "+1", "1e", "1e999", "1e99", "1Ei", "0x1"],
)
def test_what_is_no_quantity_is_refused(quantity: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        memory_bytes(quantity)


@pytest.mark.parametrize(
    ("quantity", "size_bytes"),
    [
        (7, 7),
        ("80Gi", 80 << 30),
        ("1.5Gi", 3 << 29),
        (".5Ki", 512),
        ("1.", 1),
        ("2k", 2000),
        ("1e3", 1000),
        ("12E2", 1200),
        ("1E", 10**18),
        ("1500m", 2),
        ("0", 0),
    ],
)
def test_quantities_are_those_of_kubernetes(quantity: int | str, size_bytes: int) -> None:
    assert memory_bytes(quantity) == size_bytes


def test_a_limit_with_a_fraction_is_planned_for_and_rendered() -> None:
    of = target(
        accelerator={"resource": "cpu"}, engine={"resources": {"limits": {"memory": "1.5Gi"}}}
    )

    spec = render.template(of, planned(of), CONFIG)["spec"]

    assert planned(of).plan.line("total") == 3 << 29
    assert spec["containers"][0]["resources"]["limits"]["memory"] == "1.5Gi"


def test_a_status_of_another_version_is_begun_anew_from_what_validates() -> None:
    pressure = {"percent": 5, "limitedBy": "moonlight"}
    written = body() | {"status": {"replicas": 2, "pressure": pressure, "readyReplicas": "two"}}

    read = KVarNDeployment.model_validate(written).status

    assert (read.replicas, read.ready_replicas, read.pressure) == (2, None, None)


def test_name_and_status_are_known_whatever_the_spec_says() -> None:
    written = body() | {"spec": "x", "status": {"replicas": 2}}

    head = Head.model_validate(written)

    assert (head.metadata.name, head.status.replicas) == ("demo", 2)
