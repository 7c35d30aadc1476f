"""A local copy of one namespace's objects, kept up to date by watching, and waits on it."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Self

import urllib3
from kubernetes.client.exceptions import ApiException

from demo.kube import Kube, Manifest

WATCH_SECONDS = 20
"""A watch is renewed, from a fresh list, this often: so nothing can be missed for longer."""
PAUSE_SECONDS = 0.5
AWAY_SECONDS = 30.0
"""For so long an API server may not answer before waiting for it makes no sense."""

KINDS = ("KVarNDeployment", "Deployment", "Service", "PodDisruptionBudget", "Pod", "Job")


class NotReachedError(Exception):
    """What was waited for did not come; the message says what and how long."""


class Mirror:
    """Objects of some kinds in one namespace; a context manager."""

    def __init__(self, kube: Kube, namespace: str, kinds: Iterable[str] = KINDS) -> None:
        self.kube = kube
        self.namespace = namespace
        self._objects: dict[str, dict[str, Manifest] | None] = dict.fromkeys(kinds)
        self._answered = dict.fromkeys(self._objects, time.monotonic())
        self._changed = threading.Condition()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        """Start to watch; returns when every kind is known."""
        for kind in self._objects:
            threading.Thread(target=self._follow, args=(kind,), daemon=True).start()
        self.until(lambda mirror: mirror.complete, "the first lists", seconds=60)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop at the next change; nothing is waited for."""
        self._over.set()

    @property
    def complete(self) -> bool:
        """Whether all kinds have been listed."""
        return None not in self._objects.values()

    def all(self, kind: str) -> list[Manifest]:
        """The objects of a kind, by name."""
        objects = self._objects[kind] or {}
        return [objects[name] for name in sorted(objects)]

    def get(self, kind: str, name: str) -> Manifest | None:
        """An object, or None where there is none."""
        return (self._objects[kind] or {}).get(name)

    def until(
        self,
        holds: Callable[[Self], bool],
        what: str,
        *,
        seconds: float,
        tell: Callable[[Self], None] = lambda _: None,
    ) -> None:
        """Return as soon as `holds`; look, and `tell`, at every change and once a second.

        Raises:
            NotReachedError: not within `seconds`, or the API server is gone.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while not holds(self):
                tell(self)
                if time.monotonic() > deadline:
                    raise NotReachedError(f"{what}: not within {seconds:.0f} s")
                if time.monotonic() - min(self._answered.values()) > WATCH_SECONDS + AWAY_SECONDS:
                    raise NotReachedError(f"{what}: the API server has stopped answering")
                self._changed.wait(1.0)

    def _follow(self, kind: str) -> None:
        while not self._over.is_set():
            try:
                self._watch(kind)
            except (ApiException, urllib3.exceptions.HTTPError):
                # The API server is away or has forgotten the version: begin again with a list.
                self._over.wait(PAUSE_SECONDS)

    def _watch(self, kind: str) -> None:
        resource = self.kube.resource(kind)
        listed = resource.get(namespace=self.namespace).to_dict()
        with self._changed:
            self._answered[kind] = time.monotonic()
            self._objects[kind] = {item["metadata"]["name"]: item for item in listed["items"]}
            self._changed.notify_all()
        for event in resource.watch(
            namespace=self.namespace,
            resource_version=listed["metadata"]["resourceVersion"],
            timeout=WATCH_SECONDS,
        ):
            self._take(kind, event)
            if self._over.is_set():
                return

    def _take(self, kind: str, event: dict[str, Any]) -> None:
        body, objects = event["raw_object"], dict(self._objects[kind] or {})
        objects.pop(body["metadata"]["name"], None)
        if event["type"] != "DELETED":
            objects[body["metadata"]["name"]] = body
        with self._changed:
            self._objects[kind] = objects
            self._changed.notify_all()
