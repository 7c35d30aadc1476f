"""How long the demo and the tests took last, for `bench.footprint`."""

import json
from pathlib import Path

from hack import cache


def record(name: str, seconds: float) -> None:
    """Keep the duration of a run that ended well."""
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**read(), name: round(seconds, 1)}, indent=1) + "\n")


def read() -> dict[str, float]:
    """The durations in seconds by name; empty where nothing has been recorded."""
    path = _path()
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _path() -> Path:
    return cache.default().root / "timings.json"
