"""What all models of the API share: naming, CEL rules, quantities."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
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

Memory = Annotated[
    int | str,
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            **rules(
                rule(
                    "type(self) == int ? self > 0 : self.matches('^[1-9][0-9]*([kMGT]|[KMGT]i)?$')",
                    "give a positive size such as 80Gi",
                )
            ),
        }
    ),
]
"""Bytes as a Kubernetes quantity, in whole units."""

OpenObject = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
"""An object of another API, which the API server checks where it lands."""

Quantities = Annotated[
    dict[str, int | str],
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"x-kubernetes-int-or-string": True},
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


_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def memory_bytes(quantity: int | str) -> int:
    """Bytes of a `Memory` quantity, e.g. ``80Gi``.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"([0-9]+)([kMGT]|[KMGT]i)?", str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r} is no size: give one such as 80Gi.")
    digits, unit = match.groups(default="")
    return int(digits) * _UNITS[unit]


def timestamp(time: datetime) -> str:
    """`time`, in UTC, as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
