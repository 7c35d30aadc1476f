"""The size: written, handed over to another controller, or left alone, so that it has one owner."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from kvarn_operator import apply, leaving, metrics
from kvarn_operator.apply import Applied, Applier
from kvarn_operator.autoscale import Change, Decision, History
from kvarn_operator.autoscalers import KINDS, autoscaler
from kvarn_operator.cluster import ClusterError, RefusedError
from kvarn_operator.leaving import Notes
from kvarn_operator.metrics_api.values import DEMAND, PRESSURE, TOKENS, Figures, Values
from kvarn_operator.observe import DELETION_COST, Child, Manifest
from kvarn_operator.planning import Unplanned
from kvarn_operator.pressure import Fleet
from kvarn_operator.readings import FRESH_INTERVALS, Reading
from kvarn_operator.scene import Scene

SLACK_SECONDS = 5.0
"""What a pass may take longer until what it published is too old."""
NO_KEDA = (
    "ScaledObjects are not served: install KEDA 2.17 or later, or set autoscaling.mode to hpa or"
    " builtin."
)


class SizeApi(Applier, Protocol):
    """What is asked of the API server; see `kvarn_operator.cluster.Cluster`."""

    async def delete(self, kind: str, *, namespace: str, name: str) -> None:
        """Ask for the deletion of an object."""

    async def scale(self, *, namespace: str, name: str, replicas: int) -> None:
        """Write the scale of a Deployment."""

    async def annotate_pod(
        self, *, namespace: str, name: str, notes: Mapping[str, str | None]
    ) -> None:
        """Set annotations of a pod, or remove them."""


class Registration(Protocol):
    """What makes the metrics API known; see `kvarn_operator.metrics_api.registration`."""

    async def ensure(self) -> str:
        """Serve; an empty string, or what a person has to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actuator:
    """What the size is written with.

    Attributes:
        values: where outside autoscalers read the demand.
        poll_seconds: time between two passes.
    """

    api: SizeApi
    registration: Registration
    values: Values
    poll_seconds: float

    async def protect(self, scene: Scene) -> Scene:
        """Keep node autoscalers off the pods that load or drain, and off no others."""
        pods = (*scene.observed.servers, *scene.observed.draining)
        notes = leaving.evictions(scene.target, pods)
        return await self._annotate(scene, notes)

    async def hand_over(self, scene: Scene, *, applied: Applied, absent: set[str]) -> Scene:
        """Have the controller that the mode asks for, and none besides.

        Args:
            scene: what was found so far.
            applied: what was applied before.
            absent: kinds of autoscalers that are known not to be there; kept up to date.
        """
        wanted = autoscaler(scene.target)
        for kind in KINDS.values():
            if wanted and wanted["kind"] == kind:
                absent.discard(kind)
            elif not await self._is_gone(kind, scene, absent):
                return replace(scene, unowned=f"The {kind} of the mode before has to go first.")
        rules = scene.target.spec.autoscaling
        asked = rules is not None and rules.mode in {"hpa", "none"}
        trouble = await self.registration.ensure() if asked else ""
        return await self._made(scene, wanted, trouble, applied) if wanted else scene

    async def _made(self, scene: Scene, wanted: Manifest, trouble: str, applied: Applied) -> Scene:
        key = (wanted["kind"], wanted["metadata"]["name"])
        live = scene.observed.children.get(key)
        try:
            child = await apply.apply(self.api, wanted, live, applied=applied)
        except RefusedError as error:
            return replace(scene, unowned=str(error))
        except ClusterError as error:
            if error.code != 404:
                raise
            return replace(scene, unowned=NO_KEDA)
        children = {**scene.observed.children, key: child}
        observed = replace(scene.observed, children=children)
        return replace(scene, observed=observed, unowned=trouble)

    async def _is_gone(self, kind: str, scene: Scene, absent: set[str]) -> bool:
        """Whether there is no autoscaler of ours of this kind; asks for its end if there is."""
        if kind in absent:
            return True
        meta = scene.target.metadata
        found = await self.api.get(kind, namespace=meta.namespace, name=meta.name)
        if found is None or meta.uid not in Child.read(found, kind=kind).owners:
            absent.add(kind)
            return True
        if "deletionTimestamp" not in found["metadata"]:
            await self.api.delete(kind, namespace=meta.namespace, name=meta.name)
        return False

    async def write(self, scene: Scene, *, current: int, wanted: int) -> bool:
        """Whether the size was written; not, if the stream was behind and `current` is past."""
        namespace, name = scene.target.metadata.namespace, scene.target.metadata.name
        live = await self.api.get("Deployment", namespace=namespace, name=name)
        if live is None or live["spec"].get("replicas", 1) != current:
            return False
        await self.api.scale(namespace=namespace, name=name, replicas=wanted)
        return True

    async def mark_victims(self, scene: Scene, readings: Mapping[str, Reading]) -> Scene:
        """Write what each pod has to lose, where it is not written already."""
        written = {pod.name: pod.deletion_cost for pod in scene.observed.servers}
        plan = scene.target.status.plan
        costs = leaving.deletion_costs(readings, planned_tokens=plan.cache_tokens if plan else 0)
        notes: dict[str, Notes] = {
            pod: {DELETION_COST: str(cost)}
            for pod, cost in costs.items()
            if pod in written and written[pod] != str(cost)
        }
        return await self._annotate(scene, notes)

    async def _annotate(self, scene: Scene, notes: Mapping[str, Notes]) -> Scene:
        """Write on pods; a policy that does not admit it must not keep the servers from scaling."""
        for pod, wanted in notes.items():
            try:
                await self.api.annotate_pod(
                    namespace=scene.target.metadata.namespace, name=pod, notes=wanted
                )
            except RefusedError as error:
                scene = replace(scene, unannotated=f"{pod}: {error}")
        return scene

    def publish(self, scene: Scene, fleet: Fleet, *, now: datetime) -> None:
        """Tell outside autoscalers the demand; nothing where a number would be too low."""
        meta, decision = scene.target.metadata, scene.decision
        numbers: dict[str, float] = {}
        if fleet.percent is not None and not fleet.stale:
            numbers[PRESSURE] = fleet.percent / 100
            numbers[TOKENS] = sum(server.demand_tokens for server in fleet.servers)
        if decision is not None and scene.told is not None:
            numbers[DEMAND] = scene.told
        fresh = timedelta(seconds=FRESH_INTERVALS * self.poll_seconds + SLACK_SECONDS)
        refusal = decision.message if decision else _refusal(scene)
        figures = Figures(numbers=numbers, at=now, until=now + fresh, refusal=refusal)
        self.values.publish((meta.namespace, meta.name), figures)
        metrics.tell(meta.namespace, meta.name, numbers)


def _refusal(scene: Scene) -> str:
    """Why there is no decision to serve."""
    if isinstance(scene.outcome, Unplanned):
        return scene.outcome.message
    return scene.refused or scene.unowned or "No autoscaler is asked for."


def told(decision: Decision, *, current: int) -> int | None:
    """The size that the demand calls for; None where there is no evidence for it.

    With some servers silent, what the others say may still call for more.
    """
    wanted = decision.history.wanted[-1][1]
    return wanted if decision.active or wanted > current else None


def followed(history: History, *, current: int, now: datetime) -> History:
    """The history where another controller changes the size, and has windows of its own."""
    if history.size and history.size != current:
        history = history.changed(Change(now, current - history.size))
    return replace(history, grown=None, shrunk=None)
