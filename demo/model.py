"""Where the demo's model lies, and how it comes to be there."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from hack import cache
from hack.errors import Refusal

NAME = "demo"
ROOT = Path(__file__).parents[1]
MADE_FROM = ("train.py", "corpus.py")


def folder() -> Path:
    """Where the model of just this trainer lies or will lie: other sources, another folder."""
    digest = hashlib.sha256()
    for source in MADE_FROM:
        digest.update(Path(__file__).with_name(source).read_bytes())
    return cache.default().root / "models" / digest.hexdigest()[:12] / NAME


def ensure() -> Path:
    """Train the model unless it is there already; returns its folder.

    In a process of its own, so that PyTorch's memory is given back.

    Raises:
        Refusal: the training failed; it has said why.
    """
    model = folder()
    if not model.is_dir():
        # Threads that wait without spinning leave the cores to whatever else runs.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", "demo.train"]
        done = subprocess.run(command, cwd=ROOT, env=environment, check=False, stdout=sys.stderr)
        if done.returncode:
            raise Refusal("There is no model to serve: the lines above say why.")
    return model
