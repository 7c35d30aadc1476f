"""One pass: observe, plan, render, apply, scale, status. The only sequence there is.

It does not know what woke it, may end anywhere and be run again, and writes nothing where nothing
is to be done. What it remembers between passes saves requests, and what must outlive the process
stands in the status as well.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from pydantic import ValidationError

from kvarn import planner
from kvarn_operator import (
    apply,
    autoscale,
    autoscalers,
    checkpoint,
    conditions,
    events,
    inspection,
    metrics,
    render,
    retries,
    status,
)
from kvarn_operator.actuate import Actuator, followed, told
from kvarn_operator.api import Head, KVarNDeployment, Metadata
from kvarn_operator.api.base import timestamp
from kvarn_operator.api.status import Checkpoint, InspectedModel, LastScale, Status
from kvarn_operator.apply import Applied, Applier
from kvarn_operator.autoscale import Change, Decision, History
from kvarn_operator.cluster import RefusedError
from kvarn_operator.conditions import Verdict
from kvarn_operator.config import Config
from kvarn_operator.events import Event
from kvarn_operator.gpus import Products, needs_nodes
from kvarn_operator.observe import Observed
from kvarn_operator.planning import Outcome, Planned, Unplanned
from kvarn_operator.pods import image
from kvarn_operator.pressure import Fleet, fleet
from kvarn_operator.readings import Reading, record
from kvarn_operator.scene import Scene
from kvarn_operator.scrape import Sample, ScrapeError

RESYNC_SECONDS = 60.0
"""Time to the next look where nothing is measured and nothing wakes the pass."""
RETRY_SECONDS = 10.0
MARK_SECONDS = 60.0
"""Between two writes on pods of who goes first."""


class Api(Applier, Protocol):
    """What a pass asks of the API server; see `kvarn_operator.cluster.Cluster`."""

    async def apply_status(self, *, identity: Mapping[str, str], status: Mapping[str, Any]) -> None:
        """Server-side apply of the status."""

    async def gpu_products(self) -> Products:
        """GPU products of the cluster's nodes."""


class Pages(Protocol):
    """What a pass asks of the pods; see `kvarn_operator.scrape.Scraper`."""

    async def read(self, addresses: Iterable[str]) -> list[Sample | ScrapeError]:
        """A sample for each address, or why there is none."""


@dataclass(slots=True)
class Memory:
    """What is remembered of one resource between passes.

    Attributes:
        applied: of the children.
        absent: kinds of autoscalers that are not there.
        status: the last one written; the watch stream may lag behind it.
        asked: when the metrics were read last, and `known` of which pods.
        last_scale: the latest change of size, written to the status or not.
        marked: when it was last written on the pods who goes first.
    """

    applied: Applied = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    status: Status | None = None
    readings: dict[str, Reading] = field(default_factory=dict)
    asked: datetime | None = None
    known: frozenset[str] = frozenset()
    history: History | None = None
    last_scale: LastScale | None = None
    marked: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciler:
    """A pass and what it works with.

    Attributes:
        clock: the time, in UTC.
    """

    api: Api
    actuator: Actuator
    pages: Pages
    config: Config
    clock: Callable[[], datetime]

    async def reconcile(
        self,
        body: Mapping[str, Any],
        observed: Observed,
        memory: Memory,
        *,
        tell: Callable[[Event], None],
    ) -> float:
        """Bring the children and the status in line with the resource.

        Args:
            body: the resource as the watch stream last showed it.
            observed: its children, likewise.
            memory: from the pass before.
            tell: publishes an event.

        Returns:
            Seconds until it should be looked at again, if nothing happens before.

        Raises:
            ClusterError: the API server did not do what was asked; nothing is lost by retrying.
        """
        try:
            target = KVarNDeployment.model_validate(body)
        except ValidationError as error:
            await self.amend(body, conditions.invalid(error), memory, tell=tell)
            return RESYNC_SECONDS
        if memory.status is not None:
            target = target.model_copy(update={"status": memory.status})
        scene = await self._plan(target, observed)
        scene = await self._apply(scene, memory)
        scene = await self.actuator.protect(scene)
        servers = await self._measure(scene, memory)
        scene = await self._scale(scene, servers, memory)
        await self._report(scene, servers, memory, tell=tell)
        return self._next_look(scene)

    async def amend(
        self,
        body: Mapping[str, Any],
        verdicts: Iterable[tuple[str, Verdict]],
        memory: Memory,
        *,
        tell: Callable[[Event], None],
    ) -> None:
        """Write conditions of a resource that no pass can work on, and let no demand stand.

        Raises:
            ClusterError: the API server did not do what was asked.
        """
        head = Head.model_validate(body)
        meta, old = head.metadata, memory.status or head.status
        new = status.amended(old, verdicts, generation=meta.generation, now=self.clock())
        metrics.tell(meta.namespace, meta.name, {})
        await self._write_status(meta, memory, old=old, new=new, tell=tell)

    async def _plan(self, target: KVarNDeployment, observed: Observed) -> Scene:
        products: Products = {}
        if needs_nodes(target.spec):
            products = await self.api.gpu_products()
        model: InspectedModel | None = None
        outcome: Outcome
        try:
            finding = inspection.find(target, observed, self.config)
            model, outcome = finding.record, inspection.unread(finding.record)
            if finding.shape is not None:
                runs = image(target, self.config)
                outcome = retries.plan(target, observed, finding.shape, products, image=runs)
            if finding.wants_job:
                await self.api.apply(inspection.job(target, self.config, products))
        except planner.PlannerError as error:
            outcome = Unplanned(reason=error.reason, message=error.message)
        except RefusedError as error:
            # What is known of the model holds, though no other image may read it.
            if finding.shape is None:
                outcome = Unplanned(reason="ChildRefused", message=str(error))
        return Scene(target=target, outcome=outcome, observed=observed, model=model)

    async def _apply(self, scene: Scene, memory: Memory) -> Scene:
        """Apply the children, or none without a plan."""
        if isinstance(scene.outcome, Unplanned):
            return scene
        children, refused = dict(scene.observed.children), ""
        try:
            for manifest in render.children(
                scene.target, scene.outcome, self.config, stuck=scene.is_stuck
            ):
                key = (manifest["kind"], manifest["metadata"]["name"])
                live = children.get(key)
                children[key] = await apply.apply(self.api, manifest, live, applied=memory.applied)
        except RefusedError as error:
            refused = str(error)
        return replace(scene, observed=replace(scene.observed, children=children), refused=refused)

    async def _measure(self, scene: Scene, memory: Memory) -> Fleet:
        """Read the ready pods' metrics, no more often than `poll_seconds`."""
        now, ready = self.clock(), [pod for pod in scene.observed.servers if pod.ready and pod.ip]
        names = frozenset(pod.name for pod in ready)
        poll = timedelta(seconds=self.config.poll_seconds)
        if memory.asked is None or now - memory.asked >= poll or not names <= memory.known:
            answers = await self.pages.read([pod.ip for pod in ready])
            by_pod = dict(zip((pod.name for pod in ready), answers, strict=True))
            memory.readings = record(
                memory.readings,
                by_pod,
                now=now,
                templates={pod.name: pod.template_hash for pod in ready},
                learnt=checkpoint.cost(scene.target.status),
            )
            memory.asked, memory.known = now, names
            _count_failures(scene.target, answers)
        planned = (
            scene.outcome.plan if isinstance(scene.outcome, Planned) else scene.target.status.plan
        )
        if planned is None:
            return Fleet()
        rules = scene.target.spec.autoscaling
        return fleet(
            sorted(names),
            memory.readings,
            target=(rules.target_pressure_percent if rules else 85) / 100,
            max_sequences=planned.max_sequences,
            planned_tokens=planned.cache_tokens,
            limits={pod.name: pod.max_sequences for pod in ready if pod.max_sequences},
            queue_seconds=rules.target_queue_seconds if rules else None,
            now=now,
            poll_seconds=self.config.poll_seconds,
        )

    async def _scale(self, scene: Scene, servers: Fleet, memory: Memory) -> Scene:
        """Write the size, if it is ours to write and not what it should be."""
        memory.last_scale = memory.last_scale or scene.target.status.last_scale
        scene = replace(scene, last_scale=memory.last_scale)
        current = scene.deployment.replicas if scene.deployment else None
        if current is None or isinstance(scene.outcome, Unplanned) or scene.refused:
            self.actuator.publish(scene, Fleet(), now=self.clock())
            return replace(scene, desired=current)
        scene = await self.actuator.hand_over(scene, applied=memory.applied, absent=memory.absent)
        decision = self._decide(scene, servers, memory, current=current)
        scene = replace(scene, decision=decision, desired=current)
        if decision and scene.is_outside:
            scene = replace(scene, told=told(decision, current=current))
            if autoscalers.shrinks(scene.target, told=scene.told, current=current):
                scene = await self._mark(scene, memory)
        self.actuator.publish(scene, servers, now=self.clock())
        return await self._write(scene, memory, current=current)

    async def _write(self, scene: Scene, memory: Memory, *, current: int) -> Scene:
        decision, stated = scene.decision, scene.target.spec.replicas
        wanted = decision.replicas if decision else current if stated is None else stated
        if scene.is_outside or scene.unowned or wanted == current:
            return scene
        if wanted < current:
            scene = await self._mark(scene, memory)
        if not await self.actuator.write(scene, current=current, wanted=wanted):
            return scene
        if decision:
            memory.last_scale = _scaled(scene.target, decision, current=current, now=self.clock())
            memory.history = decision.history.changed(Change(self.clock(), wanted - current))
        return replace(scene, desired=wanted, last_scale=memory.last_scale)

    async def _mark(self, scene: Scene, memory: Memory) -> Scene:
        """Mark who goes first; not at each look, as what they have to lose changes all the time."""
        now = self.clock()
        if memory.marked is not None and now - memory.marked < timedelta(seconds=MARK_SECONDS):
            return scene
        memory.marked = now
        return await self.actuator.mark_victims(scene, memory.readings)

    def _decide(
        self, scene: Scene, servers: Fleet, memory: Memory, *, current: int
    ) -> Decision | None:
        rules = scene.target.spec.autoscaling
        if rules is None or rules.mode == "none":
            return None
        history = memory.history or checkpoint.restore(scene.target.status, current=current)
        if scene.is_outside:
            history = followed(history, current=current, now=self.clock())
        decision = autoscale.decide(
            servers, current=current, rules=rules, history=history, now=self.clock()
        )
        memory.history = decision.history
        return decision

    async def _report(
        self, scene: Scene, servers: Fleet, memory: Memory, *, tell: Callable[[Event], None]
    ) -> None:
        """Write the status if it differs from the last one, then publish what changed in it."""
        meta, old = scene.target.metadata, scene.target.status
        readings = _of_template(scene, memory.readings)
        scene = replace(scene, capacities=_capacities(readings))
        new = status.build(
            scene,
            fleet=servers,
            readings=readings,
            learnt=self._learnt(memory.history, readings),
            now=self.clock(),
        )
        if new.desired_replicas is not None:
            metrics.DESIRED.labels(meta.namespace, meta.name).set(new.desired_replicas)
        await self._write_status(meta, memory, old=old, new=new, tell=tell)

    async def _write_status(
        self,
        meta: Metadata,
        memory: Memory,
        *,
        old: Status,
        new: Status,
        tell: Callable[[Event], None],
    ) -> None:
        if status.dump(new) != status.dump(old):
            identity = {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid}
            await self.api.apply_status(identity=identity, status=status.dump(new))
            for event in events.events(old, new):
                tell(event)
        memory.status = new

    def _learnt(
        self, history: History | None, readings: Mapping[str, Reading]
    ) -> Checkpoint | None:
        if history is None:
            return None
        return checkpoint.take(history, readings.values(), now=self.clock())

    def _next_look(self, scene: Scene) -> float:
        if scene.refused or scene.unowned:
            return RETRY_SECONDS
        if any(pod.ready for pod in scene.observed.servers):
            return self.config.poll_seconds
        return RESYNC_SECONDS


def _count_failures(target: KVarNDeployment, answers: Iterable[Sample | ScrapeError]) -> None:
    failed = sum(isinstance(answer, ScrapeError) for answer in answers)
    meta = target.metadata
    metrics.SCRAPE_FAILURES.labels(meta.namespace, meta.name).inc(failed)


def _scaled(
    target: KVarNDeployment, decision: Decision, *, current: int, now: datetime
) -> LastScale:
    direction = "up" if decision.replicas > current else "down"
    meta = target.metadata
    metrics.SCALINGS.labels(meta.namespace, meta.name, direction, decision.reason).inc()
    return LastScale(
        time=timestamp(now),
        from_replicas=current,
        to_replicas=decision.replicas,
        reason=decision.reason,
        message=decision.message,
    )


def _of_template(scene: Scene, readings: Mapping[str, Reading]) -> dict[str, Reading]:
    """Readings of the servers that run the present template."""
    names = {pod.name for pod in scene.present_servers}
    return {pod: reading for pod, reading in readings.items() if pod in names}


def _capacities(readings: Mapping[str, Reading]) -> dict[str, int]:
    """Tokens that the cache of each server holds, of those that say it."""
    said = {pod: reading.sample.cache_tokens for pod, reading in readings.items()}
    return {pod: tokens for pod, tokens in said.items() if tokens}
