"""Where a model's shape comes from: a folder, a `config.json`, or a name on a hub."""

import re
from pathlib import Path

from kvarn.planner.errors import ShapeError
from kvarn.planner.hf_config import read_shape
from kvarn.planner.shape import ModelShape

HUB_SCHEME = "hf://"


def find_shape(source: str) -> ModelShape:
    """The shape of the model at `source`.

    Args:
        source: a folder, a `config.json`, `org/name` or `hf://org/name`, these two with
            `@revision` if need be. What lies on the disk goes before what is on the hub.

    Raises:
        ShapeError: nothing is there, or it cannot be planned for.
    """
    name = source.removeprefix(HUB_SCHEME)
    if name == source and Path(source).exists():
        return read_shape(source)
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
    if match is None:
        raise ShapeError(
            "UnknownModel",
            f"{source} is no folder, no file and no model's name; give a folder, a config.json or"
            " organisation/name.",
        )
    from kvarn.planner.hub import hub_shape  # noqa: PLC0415

    return hub_shape(match[1], match[2])
