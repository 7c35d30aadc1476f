"""Models whose shapes are built in, for planning where no hub can be reached.

`python -m bench.planner_models` writes the file from the models' configs.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from kvarn.planner.shape import ModelShape

FILE = "models.json"


@cache
def known_models() -> Mapping[str, ModelShape]:
    """Shapes by the models' names on the Hugging Face hub, in alphabetical order."""
    text = files("kvarn.planner").joinpath(FILE).read_text(encoding="utf-8")
    return {name: ModelShape.from_dict(shape) for name, shape in json.loads(text).items()}


def built_in(name: str) -> ModelShape | None:
    """The shape of a model by its name on the hub, whatever the case; None if it is not here."""
    known = {known_name.lower(): shape for known_name, shape in known_models().items()}
    return known.get(name.lower())
