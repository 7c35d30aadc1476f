"""What the metrics API serves, and what it refuses to."""

import pytest

from kvarn_operator.metrics_api import documents
from kvarn_operator.metrics_api.values import (
    METRICS,
    Figures,
    NoValueError,
    UnknownError,
    Value,
    Values,
    quantity,
    selected,
)
from tests.operator_logic.builders import NOW, later

DEMAND = METRICS[0]


@pytest.fixture
def values() -> Values:
    """Two resources in one namespace, of which one has no number."""
    made = Values()
    known = Figures(numbers={DEMAND: 3}, at=NOW, until=later(20))
    made.publish(("default", "demo"), known)
    silent = Figures(at=NOW, until=later(20), refusal="It is silent.")
    made.publish(("default", "silent"), silent)
    made.publish(("elsewhere", "demo"), known)
    return made


def read(values: Values, name: str = "", *, seconds: float = 0) -> list[str]:
    selector = {"serving.kvarn.dev/deployment": name} if name else {}
    found = values.read(DEMAND, namespace="default", selector=selector, now=later(seconds))
    return [value.quantity for value in found]


def test_a_resource_is_picked_by_its_label(values: Values) -> None:
    assert read(values, "demo") == ["3"]


def test_what_is_not_known_is_refused_with_the_reason(values: Values) -> None:
    with pytest.raises(NoValueError, match="It is silent"):
        read(values, "silent")


def test_a_sum_that_would_lack_a_part_is_refused(values: Values) -> None:
    with pytest.raises(NoValueError):
        read(values)


def test_an_old_number_is_refused(values: Values) -> None:
    assert read(values, "demo", seconds=20) == ["3"]
    with pytest.raises(NoValueError, match="too old"):
        read(values, "demo", seconds=21)


def test_what_is_gone_or_never_was_is_unknown(values: Values) -> None:
    values.forget(("default", "demo"))

    with pytest.raises(UnknownError, match="No resource"):
        read(values, "demo")
    with pytest.raises(UnknownError, match="ask for one of kvarn_demand_replicas"):
        values.read("cpu", namespace="default", selector={}, now=NOW)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (3, "3"), (0.85, "850m"), (1.2344, "1234m"), (3400.0, "3400")]
)
def test_numbers_are_quantities(number: float, text: str) -> None:
    assert quantity(number) == text


def test_selectors_of_equality_are_understood() -> None:
    assert selected("") == {}
    assert selected("a=1,b==2") == {"a": "1", "b": "2"}


@pytest.mark.parametrize("text", ["a in (b,c)", "!a", "a!=b", "a", "=b"])
def test_other_selectors_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"select by .*=NAME alone"):
        selected(text)


def test_every_metric_is_listed_in_both_groups() -> None:
    for served in documents.ALL:
        listed = documents.resources(served)["resources"]
        assert [item["name"].rpartition("/")[2] for item in listed] == list(METRICS)
        assert documents.group(served)["preferredVersion"]["version"] == served.version


def test_a_value_says_when_it_was_measured() -> None:
    value = Value(name="demo", quantity="3", at=NOW)

    (external,) = documents.external(DEMAND, [value])["items"]
    (custom,) = documents.custom(DEMAND, [value], namespace="default")["items"]

    assert external["timestamp"] == custom["timestamp"] == "2026-11-24T12:00:00Z"
    assert external["metricLabels"] == custom["metric"]["selector"]["matchLabels"]
