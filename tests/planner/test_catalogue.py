"""Shapes that are built in."""

import pytest

from kvarn.planner import PlannerError, read_shape
from kvarn.planner.catalogue import built_in, known_models
from tests.planner.builders import CONFIGS

COPIES = sorted(CONFIGS.glob("*__*.json"))


@pytest.mark.parametrize("path", COPIES, ids=lambda path: path.stem)
def test_what_is_built_in_is_what_the_config_says(path: object) -> None:
    try:
        shape = read_shape(path)
    except PlannerError:
        shape = None

    assert built_in(path.stem.replace("__", "/", 1)) == shape


def test_names_are_those_of_the_hub_in_order() -> None:
    names = list(known_models())

    assert names == sorted(names, key=str.lower)
    assert all(name.count("/") == 1 for name in names)


def test_a_name_is_found_in_any_case() -> None:
    assert built_in("qwen/QWEN3-8b") == built_in("Qwen/Qwen3-8B")
    assert built_in("Qwen/Qwen0-0B") is None
