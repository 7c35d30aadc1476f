"""Where kopf calls in: one daemon for each resource, woken by the resource and by its children.

Events carry no meaning here. They say only that a look is worth while; what is then done depends on
what is seen. There are no create, update or delete handlers: they miss drift, and a crash between
two of them leaves half a change.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Any

import kopf

from kvarn_operator import API_VERSION, FINALIZER, GROUP, OWNER_LABEL, PLURAL, VERSION, metrics
from kvarn_operator.actuate import Actuator
from kvarn_operator.api.status import Lesson
from kvarn_operator.cluster import Cluster, ClusterError
from kvarn_operator.conditions import broken_off
from kvarn_operator.config import Config
from kvarn_operator.events import Event
from kvarn_operator.metrics_api.registration import Registration
from kvarn_operator.metrics_api.server import Server
from kvarn_operator.metrics_api.values import Values
from kvarn_operator.observe import Child, Observed, Pod, lessons
from kvarn_operator.reconcile import Memory, Reconciler
from kvarn_operator.scrape import Scraper

LOGGER = logging.getLogger(__name__)

Key = tuple[str, str]
"""Namespace and name of a resource."""

RESOURCE = (GROUP, VERSION, PLURAL)
PODS = ("", "v1", "pods")
CHILDREN = {
    ("apps", "v1", "deployments"): "Deployment",
    ("", "v1", "services"): "Service",
    ("policy", "v1", "poddisruptionbudgets"): "PodDisruptionBudget",
    ("batch", "v1", "jobs"): "Job",
    ("autoscaling", "v2", "horizontalpodautoscalers"): "HorizontalPodAutoscaler",
}
OURS = {OWNER_LABEL: kopf.PRESENT}
OVERDUE_SECONDS = 120.0
"""A pass makes a dozen requests, of which one may take half a minute; one that takes this long is
stuck, or its API server is."""
LONGEST_RETRY_SECONDS = 60.0
CRD_POLL_SECONDS = 2.0
REGISTRATION_SECONDS = 30.0
"""Between two looks at the APIServices where no resource waits for them."""


@dataclass(slots=True)
class Board:
    """What the daemons and those who wake them share.

    Attributes:
        wakes: by resource that is looked after, set when it is worth a look.
        began: when the pass that runs now began, by a monotonic clock.
        values: what outside autoscalers are told.
    """

    wakes: dict[Key, asyncio.Event] = field(default_factory=dict)
    began: dict[Key, float] = field(default_factory=dict)
    values: Values = field(default_factory=Values)

    def wake(self, namespace: str | None, name: str) -> None:
        """Say that a resource is worth a look; one that nobody looks after is no error."""
        if wake := self.wakes.get((namespace or "", name)):
            wake.set()

    def oldest_seconds(self) -> float:
        """How long the oldest of the passes that run now has been running."""
        now = time.monotonic()
        return now - min(self.began.values(), default=now)


def register(registry: kopf.OperatorRegistry, config: Config) -> None:
    """Put the operator's handlers into `registry`."""
    board = Board()
    _register_life(registry, board, config)
    _register_children(registry, board)

    @kopf.on.event(*RESOURCE, registry=registry, id="wake")
    async def wake(namespace: str | None, name: str, **_: Any) -> None:
        board.wake(namespace, name)

    @kopf.daemon(*RESOURCE, registry=registry, id="look", backoff=1.0, cancellation_timeout=5.0)
    async def drive(
        body: kopf.Body, memo: Any, stopped: kopf.DaemonStopped, logger: kopf.Logger, **views: Any
    ) -> None:
        driver = Driver(board=board, reconciler=memo.reconciler, body=body, views=views)
        await driver.run(stopped, logger)


def _register_life(registry: kopf.OperatorRegistry, board: Board, config: Config) -> None:
    @kopf.on.startup(registry=registry, id="start")
    async def start(
        settings: kopf.OperatorSettings, memo: Any, logger: kopf.Logger, **_: Any
    ) -> None:
        configure(settings)
        memo.connections = AsyncExitStack()
        cluster = await memo.connections.enter_async_context(Cluster.connect())
        scraper = Scraper.connect(port=config.metrics_port)
        pages = await memo.connections.enter_async_context(scraper)
        await _wait_for_crd(cluster, logger)
        memo.reconciler, registration = _assemble(cluster, pages, config, board.values)
        memo.connections.push_async_callback(registration.server.close)
        keeping = asyncio.create_task(_keep_serving(registration))
        memo.connections.push_async_callback(_ended, keeping)

    @kopf.on.cleanup(registry=registry, id="stop")
    async def stop(memo: Any, **_: Any) -> None:
        await memo.connections.aclose()

    @kopf.on.login(registry=registry, id="login")
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.probe(registry=registry, id="oldest_pass_seconds")
    async def probe(**_: Any) -> int:
        oldest = board.oldest_seconds()
        if oldest > OVERDUE_SECONDS:
            raise kopf.PermanentError(f"A pass has been running for {oldest:.0f} seconds.")
        return round(oldest)


def _assemble(
    cluster: Cluster, pages: Scraper, config: Config, values: Values
) -> tuple[Reconciler, Registration]:
    """The pass with all that it works with, and what has the metrics served; they are not yet."""

    def clock() -> datetime:
        return datetime.now(UTC)

    server = Server(values=values, reviews=cluster, clock=clock, port=config.metrics_api_port)
    registration = Registration(api=cluster, server=server, clock=clock)
    actuator = Actuator(
        api=cluster, registration=registration, values=values, poll_seconds=config.poll_seconds
    )
    reconciler = Reconciler(api=cluster, actuator=actuator, pages=pages, config=config, clock=clock)
    return reconciler, registration


async def _keep_serving(registration: Registration) -> None:
    """Serve the metrics API, whatever resources there are, until cancelled.

    As long as nobody answers for an APIService, no namespace can be deleted.
    """
    said = ""
    while True:
        try:
            trouble = await registration.ensure()
            if trouble != said:
                LOGGER.info("The metrics API: %s", trouble or "served.")
            said = trouble
        except ClusterError as error:
            LOGGER.warning("The APIServices could not be looked at: %s", error)
        except Exception:
            LOGGER.exception("The look at the APIServices broke off.")
        await asyncio.sleep(REGISTRATION_SECONDS)


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel a task, and wait until it has closed what it had open."""
    task.cancel()
    await asyncio.wait([task])


def _register_children(registry: kopf.OperatorRegistry, board: Board) -> None:
    """Index the children, and wake their resource when one changes."""

    async def wake(namespace: str | None, labels: Mapping[str, str], **_: Any) -> None:
        board.wake(namespace, labels[OWNER_LABEL])

    for (group, version, plural), kind in CHILDREN.items():
        index = kopf.index(group, version, plural, labels=OURS, registry=registry, id=plural)
        index(_indexer(partial(Child.read, kind=kind)))
        kopf.on.event(group, version, plural, labels=OURS, registry=registry)(wake)
    kopf.index(*PODS, labels=OURS, registry=registry, id="pods")(_indexer(Pod.read))
    kopf.on.event(*PODS, labels=OURS, registry=registry)(wake)

    @kopf.index(*RESOURCE, registry=registry, id="lessons")
    async def learned(body: kopf.Body, namespace: str | None, **_: Any) -> dict[str, list[Lesson]]:
        return {namespace or "": lessons(body)}


def _indexer(read: Callable[[kopf.Body], Any]) -> Any:
    """An index handler that keeps what `read` makes of a child, by the child's resource."""

    async def children(
        body: kopf.Body, namespace: str | None, labels: Mapping[str, str], **_: Any
    ) -> dict[Key, Any]:
        return {(namespace or "", labels[OWNER_LABEL]): read(body)}

    return children


def configure(settings: kopf.OperatorSettings) -> None:
    """What differs from kopf's defaults, and why."""
    settings.persistence.finalizer = FINALIZER
    settings.posting.reporting_component = "kvarn-operator"
    settings.posting.event_name_prefix = "kvarn-"
    # Events are not urgent, and each connection to the API server has a buffer of 256 KiB.
    settings.posting.worker_limit = 2
    # A watch stream that died silently must not last.
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 30
    settings.networking.request_timeout = 30
    # Namespaces and CRDs need not be watched: fewer permissions, less memory.
    settings.scanning.disabled = True
    # The handlers' own filters work on this side of the wire, these on the other.
    for resource in (*CHILDREN, PODS):
        settings.watching.label_selectors[resource] = OWNER_LABEL


async def _wait_for_crd(cluster: Cluster, logger: kopf.Logger) -> None:
    """Kopf sees only resources that are served when it starts."""
    while not await cluster.serves_resource():
        logger.warning(f"{API_VERSION} is not served: apply the folder crds/.")  # noqa: G004
        await asyncio.sleep(CRD_POLL_SECONDS)


@dataclass(slots=True, kw_only=True)
class Driver:
    """The loop around the passes of one resource.

    Attributes:
        body: the resource, a view that is always up to date.
        views: kopf's arguments, the indices among them.
    """

    board: Board
    reconciler: Reconciler
    body: kopf.Body
    views: Mapping[str, Any]
    memory: Memory = field(default_factory=Memory)
    failures: int = 0

    @property
    def key(self) -> Key:
        """Namespace and name."""
        return self.body["metadata"]["namespace"], self.body["metadata"]["name"]

    async def run(self, stopped: kopf.DaemonStopped, logger: kopf.Logger) -> None:
        """Look at the resource again and again, until it goes or the operator ends."""
        wake = self.board.wakes.setdefault(self.key, asyncio.Event())
        try:
            while not stopped:
                wake.clear()
                seconds = await self._look(logger)
                await _rest(seconds, wake=wake, stopped=stopped)
        finally:
            self.board.wakes.pop(self.key, None)
            self.board.values.forget(self.key)
            metrics.forget(*self.key)

    async def _look(self, logger: kopf.Logger) -> float:
        """One pass, timed and counted; seconds until the next."""
        self.board.began[self.key] = time.monotonic()
        try:
            with metrics.PASS_SECONDS.time():
                seconds = await self.reconciler.reconcile(
                    dict(self.body), self._observed(), self.memory, tell=self._tell
                )
        except ClusterError as error:
            seconds = self._failed()
            metrics.tell(*self.key, {})
            logger.warning(f"The pass failed and is tried again in {seconds:.0f} s: {error}")  # noqa: G004
        except Exception as error:
            seconds = self._failed()
            logger.exception(f"The pass broke off and is tried again in {seconds:.0f} s.")  # noqa: G004
            await self._own_up(error, logger)
        else:
            metrics.PASSES.labels("ok").inc()
            self.failures = 0
        finally:
            del self.board.began[self.key]
        return seconds

    def _failed(self) -> float:
        """Count a failure; seconds until the next try."""
        metrics.PASSES.labels("error").inc()
        self.failures += 1
        return min(2.0**self.failures, LONGEST_RETRY_SECONDS)

    async def _own_up(self, mistake: Exception, logger: kopf.Logger) -> None:
        """Say in the status that a pass broke off."""
        try:
            await self.reconciler.amend(
                dict(self.body), broken_off(mistake), self.memory, tell=self._tell
            )
        except ClusterError as error:
            logger.warning(f"That could not be written: {error}")  # noqa: G004

    def _observed(self) -> Observed:
        views = (self.views[plural].get(self.key, ()) for _, _, plural in CHILDREN)
        # Lessons of another namespace may have been written by another tenant.
        learned = self.views["lessons"].get(self.key[0], ())
        return Observed.of(
            chain.from_iterable(views),
            self.views["pods"].get(self.key, ()),
            chain.from_iterable(learned),
        )

    def _tell(self, event: Event) -> None:
        namespace, name = self.key
        resource = {"namespace": namespace, "name": name}
        LOGGER.info("%s: %s", event.reason, event.message, extra={"resource": resource})
        kopf.event(self.body, type=event.type, reason=event.reason, message=event.message)


async def _rest(seconds: float, *, wake: asyncio.Event, stopped: kopf.DaemonStopped) -> None:
    """Wait until something happens, `seconds` have passed, or the daemon is to end."""
    waits = [asyncio.ensure_future(wake.wait()), asyncio.ensure_future(stopped.wait())]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
