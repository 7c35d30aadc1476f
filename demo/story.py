"""The demo's acts, in order; each can be run again after an interruption."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes.client.exceptions import ApiException

from demo import install, objects, report, view
from demo.findings import Findings, cache_figures
from demo.kube import Kube, Manifest, proxy, read_manifests
from demo.load import Load
from demo.mirror import Mirror, NotReachedError
from demo.traffic import Traffic
from hack.progress import Step, console, step

SAMPLE = install.ROOT / "manifests" / "samples" / "cpu.yaml"
EDITED_FORMAT = "kvarn_k4v4_g128"
"""What the edit changes the cache to: four bits for the values too."""
PROMPT = "The light of the Sun"
COMPLETION_TOKENS = 80
TOLERATED_PERCENT = 2.0
"""Between the planned and the measured tokens."""

READY_SECONDS = 300.0
SCALE_SECONDS = 240.0
GONE_SECONDS = 120.0
STEADY_WORKERS = 2
BURST_WORKERS = 24
"""Six times what one replica works on at once: on any machine most of them wait."""


ACTS = {
    "ready": "Apply, until it serves",
    "scale_up": "Load, until a second replica serves",
    "scale_down": "Less load, until one replica is left",
    "roll_out": "Edit, until it is rolled out",
    "deletion": "Delete, until nothing is left",
}
"""The acts that take time: their names in the findings, and what a person reads."""


class Story:
    """The acts, and what they share."""

    def __init__(self, kube: Kube, mirror: Mirror, seen: Findings) -> None:
        self.kube, self.mirror, self.seen = kube, mirror, seen

    def serve(self) -> None:
        """Apply the sample and wait until it serves and has been measured."""
        with self._act("ready") as current:
            self.kube.apply(sample())
            self._until(
                lambda: (
                    view.is_true(self.resource, "Ready")
                    and "measured" in view.status(self.resource)
                ),
                "Ready",
                seconds=READY_SECONDS,
                current=current,
            )

    def settle(self) -> None:
        """Wait until the size is right and no pressure is left of earlier requests."""
        self.mirror.until(
            lambda _: (
                len(self.servers) == self.ready == 1
                and not view.is_true(self.resource, "Progressing")
                and view.status(self.resource).get("pressure", {}).get("percent") == 0
            ),
            "a settled resource",
            seconds=SCALE_SECONDS,
        )

    def compare(self) -> None:
        """Show the plan beside what vLLM measured.

        Raises:
            NotReachedError: they differ by more than is tolerated, or the cache is another one.
        """
        self.seen.before = figures = cache_figures(view.status(self.resource))
        console.print(report.plan_table(figures))
        if abs(figures.error_percent) > TOLERATED_PERCENT:
            raise NotReachedError(f"The plan is {figures.error_percent} % off what vLLM measured.")
        for pod in view.ready_servers(self.mirror.all("Pod")):
            dtype = f'cache_dtype="{figures.format}"'
            if dtype not in self.metrics(pod):
                raise NotReachedError(f"vLLM's metrics do not say {dtype}.")

    def complete(self) -> None:
        """Stream a completion word by word."""
        body = {
            "model": view.NAME,
            "prompt": PROMPT,
            "max_tokens": COMPLETION_TOKENS,
            "temperature": 0.5,
            "seed": 1,
        }
        words = self.kube.completion(view.NAME, namespace=objects.NAMESPACE, body=body)
        self.seen.completion = report.stream(PROMPT, words)

    def grow(self, steady: Traffic) -> None:
        """Send more than one replica can carry until a second one serves."""
        burst = Load(url=url(), model=view.NAME, concurrency=BURST_WORKERS, output_tokens=256)
        with (
            self._act("scale_up") as current,
            Traffic(self.kube, self.mirror, "load-burst", burst) as traffic,
        ):
            self._until(
                lambda: self._all_answer(2),
                "a second replica that answers",
                seconds=SCALE_SECONDS,
                current=current,
                traffic=(steady, traffic),
            )
            self.seen.replicas.append(self.ready)
            self.seen.burst = traffic.stop()

    def shrink(self, steady: Traffic) -> None:
        """Wait, under a light load, until one replica is left."""
        with self._act("scale_down") as current:
            self._until(
                lambda: len(self.servers) == 1 and self.ready == 1,
                "one replica again",
                seconds=SCALE_SECONDS,
                current=current,
                traffic=(steady,),
            )
            self.seen.replicas.append(self.ready)

    def edit(self, steady: Traffic, **spec: Any) -> None:
        """Change the cache's format under the light load and wait for the end of the roll-out.

        Args:
            steady: the light load.
            spec: what else differs from the sample.
        """
        old = {pod["metadata"]["name"] for pod in self.servers}
        with self._act("roll_out") as current:
            self.kube.apply(sample(cache={"format": EDITED_FORMAT}, **spec))
            self._until(
                lambda: (
                    self._rolled_out(EDITED_FORMAT)
                    and not old & {pod["metadata"]["name"] for pod in self.servers}
                ),
                "the end of the roll-out",
                seconds=READY_SECONDS,
                current=current,
                traffic=(steady,),
            )
        self.seen.after = cache_figures(view.status(self.resource))

    def delete(self) -> None:
        """Delete the resource and wait until nothing of it is left."""
        with self._act("deletion") as current:
            self.kube.delete("KVarNDeployment", view.NAME, namespace=objects.NAMESPACE)
            self._until(
                lambda: not self.left_over(),
                "the end of everything that belonged to it",
                seconds=GONE_SECONDS,
                current=current,
            )

    def check_requests(self) -> None:
        """Hold the loads to their promise.

        Raises:
            NotReachedError: a request failed.
        """
        for load in (self.seen.burst, self.seen.steady):
            if load and load.failed:
                raise NotReachedError(f"{load.failed} of {load.sent} requests: {load.failures}")

    def left_over(self) -> list[str]:
        """What still exists of the resource and its children."""
        kinds = ("KVarNDeployment", "Deployment", "Service", "PodDisruptionBudget", "Job", "Pod")
        return [
            f"{kind} {found['metadata']['name']}"
            for kind in kinds
            for found in self.mirror.all(kind)
            if kind == "KVarNDeployment" or view.belongs(found)
        ]

    @property
    def resource(self) -> Manifest | None:
        """The resource as it is now."""
        return self.mirror.get("KVarNDeployment", view.NAME)

    @property
    def servers(self) -> list[Manifest]:
        """Its serving pods, those included that are about to go."""
        return view.servers(self.mirror.all("Pod"))

    @property
    def ready(self) -> int:
        """How many replicas get requests."""
        return len(view.ready_servers(self.mirror.all("Pod")))

    def steady(self) -> Traffic:
        """A light load that one replica carries easily."""
        what = Load(url=url(), model=view.NAME, concurrency=STEADY_WORKERS, output_tokens=96)
        return Traffic(self.kube, self.mirror, "load-steady", what)

    def _rolled_out(self, cache_format: str) -> bool:
        told = view.status(self.resource)
        return (
            view.is_true(self.resource, "Ready")
            and told.get("plan", {}).get("format") == cache_format
            and "measured" in told
        )

    def _all_answer(self, replicas: int) -> bool:
        """Whether so many replicas are ready and each has finished a request."""
        ready = view.ready_servers(self.mirror.all("Pod"))
        return len(ready) >= replicas and all(map(self._has_answered, ready))

    def _has_answered(self, pod: Manifest) -> bool:
        try:
            told = self.metrics(pod)
        except ApiException:  # it has just gone
            return False
        return view.metric(told, "vllm:request_success_total") > 0

    def metrics(self, pod: Manifest) -> str:
        """What a server says of itself, in Prometheus' text format."""
        path = proxy("pods", pod["metadata"]["name"], namespace=objects.NAMESPACE)
        return self.kube.fetch(f"{path}/metrics")

    @contextmanager
    def _act(self, name: str) -> Iterator[Step]:
        with step(ACTS[name]) as current:
            yield current
        self.seen.seconds[name] = round(time.monotonic() - current.started, 1)

    def _until(
        self,
        holds: Callable[[], bool],
        what: str,
        *,
        seconds: float,
        current: Step,
        traffic: tuple[Traffic, ...] = (),
    ) -> None:
        def tell(_: Mirror) -> None:
            parts = (
                view.headline(self.resource) or ", ".join(self.left_over()),
                view.pod_counts(self.servers),
                report.counts(each.counts for each in traffic),
            )
            current.detail = " · ".join(part for part in parts if part)

        self.mirror.until(lambda _: holds(), what, seconds=seconds, tell=tell)
        tell(self.mirror)


def sample(**changes: Any) -> Manifest:
    """The resource that the demo applies, with fields of its spec replaced."""
    (resource,) = read_manifests(SAMPLE.read_text())
    resource["metadata"]["namespace"] = objects.NAMESPACE
    resource["spec"] |= changes
    return resource


def url() -> str:
    """Where pods reach the Service."""
    return f"http://{view.NAME}.{objects.NAMESPACE}.svc:8000"
