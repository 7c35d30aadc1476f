"""Reading JSON, above all a Hugging Face `config.json`: typed access, errors that name the key."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvarn.planner.errors import ShapeError


def load_config(path: Path) -> dict[str, Any]:
    """The object in the file at `path`.

    Raises:
        ShapeError: no such file, or it holds no JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ShapeError(
            "UnreadableConfig", f"{path} cannot be read ({error.strerror}); check the path."
        ) from error
    except ValueError as error:
        raise ShapeError(
            "UnreadableConfig", f"{path} holds no JSON ({error}); give a model's config.json."
        ) from error
    if not isinstance(config, dict):
        raise ShapeError(
            "UnreadableConfig", f"{path} holds no JSON object; give a model's config.json."
        )
    return config


class ConfigView:
    """A config's keys, read with their type checked."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def __contains__(self, key: str) -> bool:
        return self._config.get(key) is not None

    def count(self, *keys: str) -> int:
        """The first of `keys` that the config has, where 0, -1 and absence say «none».

        Raises:
            ShapeError: the value is no integer, or negative.
        """
        present = (key for key in keys if key in self and self._config[key] not in (0, -1))
        key = next(present, None)
        return 0 if key is None else self.integer(key)

    def integer(self, *keys: str, default: int | None = None) -> int:
        """The first of `keys` that the config has.

        Raises:
            ShapeError: it has none and there is no default, or the value is no positive integer.
        """
        for key in keys:
            value = self._config.get(key)
            if value is None:
                continue
            if type(value) is not int or value <= 0:
                raise ShapeError(
                    "InvalidConfig",
                    f"{key} in the model's config is {value!r}; a positive integer belongs there.",
                )
            return value
        if default is None:
            raise ShapeError(
                "InvalidConfig",
                f"The model's config lacks {keys[0]}; give the whole config.json, or state the"
                " shape by hand.",
            )
        return default

    def number(self, key: str, *, default: float) -> float:
        """The number under `key`.

        Raises:
            ShapeError: the value is no positive number.
        """
        value = self._config.get(key)
        if value is None:
            return default
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ShapeError(
                "InvalidConfig",
                f"{key} in the model's config is {value!r}; a positive number belongs there.",
            )
        return float(value)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Whether `key` is set and true."""
        value = self._config.get(key)
        return default if value is None else bool(value)

    def word(self, *keys: str) -> str:
        """The first of `keys` that the config has, as text; empty when it has none."""
        found = (self._config[key] for key in keys if self._config.get(key) is not None)
        return str(next(found, ""))

    def mapping(self, *keys: str) -> Mapping[str, Any]:
        """The first of `keys` that holds an object; empty when none does."""
        found = (self._config.get(key) for key in keys)
        return next((value for value in found if isinstance(value, dict)), {})

    def part(self, key: str) -> "ConfigView":
        """The object under `key`, an empty one where there is none."""
        return ConfigView(self.mapping(key))

    def sequence(self, key: str) -> tuple[Any, ...]:
        """The list under `key`; empty when there is none."""
        value = self._config.get(key)
        return tuple(value) if isinstance(value, list) else ()

    def entry(self, key: str, index: int) -> Any:
        """One entry of the list under `key`; None where there is no such list.

        Raises:
            ShapeError: the list is too short.
        """
        entries = self.sequence(key)
        if entries and index >= len(entries):
            raise ShapeError(
                "InvalidConfig",
                f"{key} in the model's config has {len(entries)} entries, fewer than layers; give"
                " the whole config.json.",
            )
        return entries[index] if entries else None
