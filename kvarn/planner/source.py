"""Where a model's shape comes from: a folder, a `config.json`, or a name on a hub."""

import re
from pathlib import Path

from kvarn.planner.errors import ShapeError
from kvarn.planner.hf_config import read_shape
from kvarn.planner.shape import ModelShape

UNNAMED = "MODEL"
"""In a command, what a person has to fill in."""


def find_shape(source: str) -> ModelShape:
    """The shape of the model at `source`.

    Args:
        source: a folder, a `config.json`, `org/name` or `hf://org/name`, these two with
            `@revision` if need be. What lies on the disk goes before what is on the hub, and that
            before what is built in.

    Raises:
        ShapeError: nothing is there, or it cannot be planned for.
    """
    if _on_disk(source):
        return read_shape(source)
    match = _HUB_NAME.fullmatch(source)
    if match is None:
        raise ShapeError(
            "UnknownModel",
            f"{source} is no folder, no file and no model's name; give a folder, a config.json or"
            " organisation/name.",
        )
    return _hub_shape(match["name"], match["revision"])


def _hub_shape(name: str, revision: str | None) -> ModelShape:
    """From the hub, or from what is built in where no hub answers."""
    from kvarn.planner.catalogue import built_in  # noqa: PLC0415
    from kvarn.planner.hub import hub_shape  # noqa: PLC0415

    try:
        return hub_shape(name, revision)
    except ShapeError as error:
        known = built_in(name) if error.reason == "HubUnreachable" and not revision else None
        if known is None:
            raise
        return known


def serve_arguments(source: str) -> tuple[str, ...]:
    """How `vllm serve` is told of the model at `source`, as `find_shape` takes it.

    It serves folders: a config that was saved under another name says nothing of the model's.
    """
    if _on_disk(source):
        path = Path(source)
        folder = path.parent if path.name == "config.json" else path
        return (str(folder) if folder.is_dir() else UNNAMED,)
    if match := _HUB_NAME.fullmatch(source):
        revision = match["revision"]
        return (match["name"], *(("--revision", revision) if revision else ()))
    return (source,)


def _on_disk(source: str) -> bool:
    return bool(source) and not source.startswith("hf://") and Path(source).exists()


_HUB_NAME = re.compile(r"(?:hf://)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
