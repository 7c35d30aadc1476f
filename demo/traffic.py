"""Load from inside the cluster: a pod that runs `load.py` against the Service by its DNS name."""

import json
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Self

from demo import load, objects, pods
from demo.kube import Kube, Manifest
from demo.mirror import Mirror, NotReachedError

SCRIPT = Path(load.__file__)
SCRIPTS = "load-script"
STOP_SECONDS = 180.0


class Traffic:
    """A load that runs in a pod of its own; a context manager.

    Attributes:
        counts: the latest `sent`, `ok`, `failed`, `under_way` and `output_tokens`.
    """

    def __init__(self, kube: Kube, mirror: Mirror, name: str, what: load.Load) -> None:
        self.kube, self.mirror, self.name, self.what = kube, mirror, name, what
        self.counts: dict[str, int] = {}
        self._summary: load.Summary | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        """Start the pod; returns when it has begun to send."""
        self.kube.apply(objects.config_map(SCRIPTS, [SCRIPT]))
        pods.start(self.kube, self.mirror, self._pod())
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the pod, whatever became of it."""
        pods.remove(self.kube, self.mirror, self.name)

    def stop(self) -> load.Summary:
        """Send nothing new, wait for what is under way, and return what it came to.

        Raises:
            NotReachedError: the pod ended without a summary.
        """
        # Deletion sends the signal that ends the load; the log is followed to its last line.
        self.kube.delete("Pod", self.name, namespace=objects.NAMESPACE)
        self._reader.join(STOP_SECONDS)
        if self._summary is None:
            raise NotReachedError(f"Pod {self.name} ended without a summary")
        return self._summary

    def _pod(self) -> Manifest:
        options = (f"--{key.replace('_', '-')}={value}" for key, value in asdict(self.what).items())
        command = ["python3", f"/load/{SCRIPT.name}", *options]
        volume = {"configMap": {"name": SCRIPTS}}
        return objects.pod(self.name, command, volume=volume, path="/load")

    def _read(self) -> None:
        for line in self.kube.follow_log(self.name, namespace=objects.NAMESPACE):
            if not line.startswith("{"):
                continue  # the kubelet's own words, when the container is gone before its log ends
            told = json.loads(line)
            if "summary" in told:
                self._summary = load.Summary(**told["summary"])
            else:
                self.counts = told
