"""All policies on one trace, in the same simulation."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from bench.autoscaler import oracle
from bench.autoscaler.cluster import Cluster, Moment, Policy, Run, Setup
from bench.autoscaler.oracle import Family, Work
from bench.autoscaler.policies.dynamo import LoadPlanner
from bench.autoscaler.policies.fixed import Schedule
from bench.autoscaler.policies.hpa import hpa_kv, keda_kaito, keda_production_stack
from bench.autoscaler.policies.ours import Kvarn
from bench.autoscaler.policies.wva import wva_v1, wva_v2
from bench.autoscaler.requests import Request
from bench.autoscaler.summary import Summary, Target, summarise
from kvarn_operator.api.autoscaling import Autoscaling

WORKERS = 3
"""Processes: one more than cores, so that the three searches of an oracle end together."""
PLANNED_USE = 0.6
"""Share of a server's time that fixed sizes are planned for."""
PEAK_SECONDS = 60.0
ORACLE_USE = (0.3, 1.1)
ORACLE_STEPS = 5
OURS = "kvarn"
ORACLE = "oracle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A policy's run, cut down to what is shown.

    Attributes:
        moments: its size over time.
        work: of its servers, which depends on what they found in their caches.
        late: seconds at which requests arrived whose first token was late.
    """

    summary: Summary
    work: Work
    moments: tuple[Moment, ...]
    late: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A trace, what serves it, and what is known of its work."""

    requests: Sequence[Request]
    setup: Setup
    target: Target
    work: Work

    def sizes_for(self, servers: float) -> int:
        """Servers for that much work."""
        return oracle.schedule(
            Work((servers,)), self.setup, use=PLANNED_USE, window_seconds=0
        ).sizes[0]

    def play(self, policy: Policy, *, initial: int | None = None) -> Result:
        """One run."""
        setup = replace(self.setup, initial=initial or self.setup.initial)
        run = Cluster(setup, policy).play(self.requests)
        served = (job for job in run.jobs if not job.rejected)
        return Result(
            summary=summarise(run, self.target, initial=setup.initial),
            work=Work.of(run, setup.server),
            moments=tuple(run.moments),
            late=tuple(job.request.arrival for job in served if self.target.missed(job)),
        )


def scene(requests: Sequence[Request], setup: Setup, target: Target) -> Scene:
    """Measure the work with servers to spare, and begin with the size that fits its mean."""
    ample = Schedule(sizes=(setup.max_replicas,))
    run: Run = Cluster(replace(setup, initial=setup.max_replicas), ample).play(requests)
    made = Scene(requests=requests, setup=setup, target=target, work=Work.of(run, setup.server))
    initial = made.sizes_for(made.work.mean)
    return replace(made, setup=replace(setup, initial=initial))


def _kvarn(scene: Scene) -> Result:
    setup = scene.setup
    policy = Kvarn(
        Autoscaling(max_replicas=setup.max_replicas),
        interval_seconds=setup.poll_seconds,
        restart_seconds=setup.restart_seconds,
    )
    return scene.play(policy)


def _fixed(scene: Scene, *, servers: Callable[[Work], float]) -> Result:
    size = scene.sizes_for(servers(scene.work))
    return scene.play(Schedule(sizes=(size,)), initial=size)


def _rival(scene: Scene, *, make: Callable[[], Policy]) -> Result:
    return scene.play(make())


def _mean(work: Work) -> float:
    return work.mean


def _peak(work: Work) -> float:
    return max(work.smooth(PEAK_SECONDS).servers)


RIVALS: Mapping[str, Callable[[Scene], Result]] = {
    "hpa-kv": partial(_rival, make=hpa_kv),
    "keda-production-stack": partial(_rival, make=keda_production_stack),
    "keda-kaito": partial(_rival, make=keda_kaito),
    "wva-v1": partial(_rival, make=wva_v1),
    "wva-v2": partial(_rival, make=wva_v2),
    "dynamo-load": partial(_rival, make=LoadPlanner),
}
"""Autoscalers, by name."""
POLICIES: Mapping[str, Callable[[Scene], Result]] = {
    OURS: _kvarn,
    **RIVALS,
    "fixed-mean": partial(_fixed, servers=_mean),
    "fixed-peak": partial(_fixed, servers=_peak),
}
"""All but the oracle, which needs to know how many violations it may have. The fixed sizes know
the trace's mean and peak beforehand, as no autoscaler does."""


def compare(scene: Scene, names: Sequence[str]) -> dict[str, Result]:
    """The results of the policies called `names`, the oracle's at as many violations as ours."""
    with ProcessPoolExecutor(WORKERS, initializer=_enter, initargs=(scene,)) as pool:
        plain = [name for name in names if name != ORACLE]
        pending = {name: pool.submit(_play, name) for name in plain}
        if ORACLE not in names:
            return {name: future.result() for name, future in pending.items()}
        ours = (pending.get(OURS) or pool.submit(_play, OURS)).result()
        found = pool.map(partial(_oracle, ours=ours), oracle.families(scene.requests))
        results = {name: future.result() for name, future in pending.items()}
        allowed = ours.summary.ttft_violations
        results[ORACLE] = min(found, key=lambda result: _rank(result, allowed))
    return results


_entered: list[Scene] = []
"""The scene of this process: its requests take longer to send than a policy to choose a size."""


def _enter(scene: Scene) -> None:
    _entered[:] = [scene]


def _play(name: str) -> Result:
    return POLICIES[name](*_entered)


def _oracle(family: Family, *, ours: Result) -> Result:
    """The cheapest schedule found that has no more violations than `ours`."""
    (scene,), allowed = _entered, ours.summary.ttft_violations
    low, high = ORACLE_USE
    work = ours.work if family.as_served else scene.work
    played: dict[Schedule, Result] = {}
    for _ in range(ORACLE_STEPS):
        use = (low + high) / 2
        made = oracle.schedule(work, scene.setup, use=use, window_seconds=family.window_seconds)
        if made not in played:
            played[made] = scene.play(made, initial=made.sizes[0])
        kept = played[made].summary.ttft_violations <= allowed
        low, high = (use, high) if kept else (low, use)
    return min(played.values(), key=lambda result: _rank(result, allowed))


def _rank(result: Result, allowed: float) -> tuple[float, float]:
    """Order of preference: within what is allowed first, then by cost."""
    summary = result.summary
    return max(summary.ttft_violations - allowed, 0.0), summary.gpu_hours
