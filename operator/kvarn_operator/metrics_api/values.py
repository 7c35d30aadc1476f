"""What is served of each resource, and until when it may be believed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kvarn_operator import OWNER_LABEL

DEMAND = "kvarn_demand_replicas"
"""The size that the policy calls for, before windows and step limits."""
TOKENS = "kvarn_demand_tokens"
"""Demand on all ready replicas, in tokens of cache."""
PRESSURE = "kvarn_pressure_ratio"
"""Mean pressure on the ready replicas; 1 is a full replica."""
METRICS = (DEMAND, TOKENS, PRESSURE)

Key = tuple[str, str]
"""Namespace and name of a resource."""


class NoValueError(Exception):
    """There is no number that could be believed: none is served, and autoscalers hold the size."""


class UnknownError(Exception):
    """No such resource or metric is served here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The numbers of one resource.

    Attributes:
        numbers: by metric; what is missing is refused.
        at: when they were measured.
        until: after that they are too old.
        refusal: why what is missing is missing.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    at: datetime
    until: datetime
    refusal: str = "The operator has not measured it yet."


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One number of one resource."""

    name: str
    quantity: str
    at: datetime

    @property
    def labels(self) -> dict[str, str]:
        """What selectors can ask for."""
        return {OWNER_LABEL: self.name}


class Values:
    """The figures of all resources: passes write them, the server reads them."""

    def __init__(self) -> None:
        self._figures: dict[Key, Figures] = {}

    def publish(self, key: Key, figures: Figures) -> None:
        """Serve `figures` from now on."""
        self._figures[key] = figures

    def forget(self, key: Key) -> None:
        """Serve nothing of a resource that is gone."""
        self._figures.pop(key, None)

    def read(
        self, metric: str, *, namespace: str, selector: Mapping[str, str], now: datetime
    ) -> list[Value]:
        """One metric of the resources that `selector` matches.

        If one of several has no value, none is given: a sum over the others would be too low.

        Raises:
            UnknownError: nothing matches, or there is no such metric.
            NoValueError: a value is missing or too old.
        """
        if metric not in METRICS:
            raise UnknownError(f"There is no metric {metric}: ask for one of {', '.join(METRICS)}.")
        values = list(self._matching(metric, namespace, selector, now))
        if not values:
            raise UnknownError(f"No resource in namespace {namespace} matches.")
        return values

    def _matching(
        self, metric: str, namespace: str, selector: Mapping[str, str], now: datetime
    ) -> Iterator[Value]:
        for (place, name), figures in sorted(self._figures.items()):
            if place == namespace and selector.items() <= {OWNER_LABEL: name}.items():
                yield _value(metric, name, figures, now)


def _value(metric: str, name: str, figures: Figures, now: datetime) -> Value:
    if now > figures.until:
        raise NoValueError(f"{metric} of {name} is too old to be believed.")
    number = figures.numbers.get(metric)
    if number is None:
        raise NoValueError(f"{metric} of {name} is not known: {figures.refusal}")
    return Value(name=name, quantity=quantity(number), at=figures.at)


def quantity(number: float) -> str:
    """`number` as a Kubernetes quantity, to a thousandth."""
    thousandths = round(1000 * number)
    whole, rest = divmod(thousandths, 1000)
    return f"{thousandths}m" if rest else str(whole)


def selected(text: str) -> dict[str, str]:
    """A label selector of the form ``name=value,…``.

    Raises:
        ValueError: it says more than that.
    """
    pairs: dict[str, str] = {}
    for term in filter(None, text.split(",")):
        name, equals, value = term.replace("==", "=").partition("=")
        if not equals or not name or not value or set(term) & set("!()<> "):
            raise ValueError(f"{text!r} is not understood: select by {OWNER_LABEL}=NAME alone.")
        pairs[name] = value
    return pairs
