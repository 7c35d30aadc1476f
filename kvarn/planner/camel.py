"""Frozen dataclasses as JSON with camelCase keys, and back: one spelling for CRD, CLI and Job."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def camel(name: str) -> str:
    """`max_model_tokens` as `maxModelTokens`."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def to_camel(value: Any) -> Any:
    """A dataclass, a tuple of them or a plain value, as `json.dumps` takes it."""
    if is_dataclass(value):
        return {camel(field.name): to_camel(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [to_camel(item) for item in value]
    return value


def from_camel(cls: type[T], data: Mapping[str, Any]) -> T:
    """The reverse of `to_camel`; keys that the class has not are left aside."""
    hints = get_type_hints(cls)
    return cls(
        **{
            name: _value(hint, data[camel(name)])
            for name, hint in hints.items()
            if camel(name) in data
        }
    )


def _value(hint: Any, value: Any) -> Any:
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        return tuple(_value(item, element) for element in value)
    return from_camel(hint, value) if is_dataclass(hint) and isinstance(hint, type) else value
