"""KEDA's own definition of a ScaledObject, from its published module."""

import json
import subprocess
from pathlib import Path

from hack import cache
from hack.cluster import golang

MODULE = "github.com/kedacore/keda/v2@v2.21.0"
SUM = "h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps="
"""Go's checksum of the module: what the API server is given is what was published."""


def definition() -> Path:
    """The CustomResourceDefinition, downloaded into Go's module cache if it is not there."""
    go = golang.find(cache.default(), minimum=(1, 24))
    done = subprocess.run(
        [go, "mod", "download", "-json", MODULE],
        env=golang.environment(),
        cwd="/",
        check=True,
        capture_output=True,
    )
    module = json.loads(done.stdout)
    assert module["Sum"] == SUM
    return Path(module["Dir"]) / "config" / "crd" / "bases" / "keda.sh_scaledobjects.yaml"
