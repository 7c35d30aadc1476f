"""Other values for the constants of our policy: what each is worth."""

from collections.abc import Mapping
from types import ModuleType

from kvarn_operator import autoscale, behavior, outlook, pressure, readings

MODULES: tuple[ModuleType, ...] = (autoscale, behavior, outlook, pressure, readings)


class SettingError(Exception):
    """Why there is no such setting: one sentence."""


def known() -> Mapping[str, float]:
    """The constants by name, with their values."""
    return {
        name: value
        for module in MODULES
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, float)
    }


def read(text: str) -> tuple[str, float]:
    """A constant's name and its new value, from ``NAME=VALUE``.

    Raises:
        SettingError: it names none, or no number.
    """
    name, _, number = text.partition("=")
    if name not in known():
        raise SettingError(f"There is no {name}: give one of {', '.join(sorted(known()))}.")
    try:
        return name, float(number)
    except ValueError:
        raise SettingError(f"{text} gives {name} no number: give {name}=0.5, say.") from None


def change(name: str, value: float) -> None:
    """Have the policy use `value` from now on, in this process and those that it forks."""
    for module in MODULES:
        if hasattr(module, name):
            setattr(module, name, value)
