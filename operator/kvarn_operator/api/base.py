"""What all models of the API share: naming, CEL rules, quantities."""

import math
import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel


def rule(expression: str, message: str) -> dict[str, str]:
    """A CEL rule and what the API server says where it does not hold."""
    return {"rule": expression, "message": message}


def rules(*each: dict[str, str]) -> dict[str, Any]:
    """CEL rules for the JSON schema of a model or a field."""
    return {"x-kubernetes-validations": list(each)}


AutoInt = Annotated[
    int | Literal["auto"],
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            **rules(
                rule(
                    "type(self) == int ? self >= 1 && self <= 16777216 : self == 'auto'",
                    "give a whole number between 1 and 16777216, or auto",
                )
            ),
        }
    ),
]
"""A whole number, or ``auto``: the planner's answer."""

IntOrPercent = Annotated[
    int | str,
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            **rules(
                rule(
                    "type(self) == int ? self >= 0 && self <= 1000"
                    " : self.matches('^(100|[1-9]?[0-9])%$')",
                    "give a whole number of pods, or a share of them such as 25%",
                )
            ),
        }
    ),
]
"""A number of pods, or a share of all."""

TOO_MANY_BYTES = 1 << 60
"""No machine has them, and sums of them would leave the status's 64 bits."""

_UNITS: dict[str, Decimal] = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}
_QUANTITY = rf"([0-9]+\.?[0-9]*|\.[0-9]+)(?:({'|'.join(_UNITS)})|[eE]([+-]?[0-9]{{1,2}}))"


def memory_bytes(quantity: int | str) -> int:
    """Bytes of a Kubernetes quantity, e.g. ``1.5Gi``; of a fraction of a byte a whole one.

    Raises:
        ValueError: it is none, or negative, or more than any machine has.
    """
    return math.ceil(amount(quantity))


def amount(quantity: int | str) -> Decimal:
    """What a Kubernetes quantity stands for, e.g. half a CPU for ``500m``.

    Raises:
        ValueError: as in `memory_bytes`.
    """
    match = re.fullmatch(_QUANTITY, str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r} is no size: give one such as 80Gi.")
    digits, unit, exponent = match.groups()
    scale = _UNITS[unit] if exponent is None else Decimal(f"1e{exponent}")
    size = Decimal(digits) * scale
    if size >= TOO_MANY_BYTES:
        raise ValueError(f"{quantity!r} is no size that a machine has: give one such as 80Gi.")
    return size


def _quantity(quantity: int | str) -> int | str:
    amount(quantity)
    return quantity


Memory = Annotated[
    int | str,
    AfterValidator(_quantity),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            **rules(
                rule(
                    f"type(self) == int ? self > 0 && self < {TOO_MANY_BYTES}"
                    " : isQuantity(self) && !self.startsWith('+')"
                    " && !quantity(self).isLessThan(quantity('1'))"
                    " && quantity(self).isLessThan(quantity('1Ei'))",
                    "give a size such as 80Gi, at least 1 and less than 1Ei",
                )
            ),
        }
    ),
]
"""Bytes as a Kubernetes quantity."""

OpenObject = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
"""An object of another API, which the API server checks where it lands."""

Quantities = Annotated[
    dict[str, Annotated[int | str, AfterValidator(_quantity)]],
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {
                "x-kubernetes-int-or-string": True,
                # No rules: on so many strings of any length they would cost too much.
                "minimum": 0,
                "pattern": f"^{_QUANTITY}$",
            },
            "maxProperties": 16,
        }
    ),
]
"""Quantities by resource name."""

Bytes = Annotated[int, WithJsonSchema({"type": "integer", "format": "int64"})]
Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time as `timestamp` writes it."""
Name = Annotated[str, Field(max_length=253, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]


class ApiModel(BaseModel):
    """Camel case outside, snake case inside; unknown fields are the API server's business."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        use_attribute_docstrings=True,
    )


def timestamp(time: datetime) -> str:
    """`time`, in UTC, as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
