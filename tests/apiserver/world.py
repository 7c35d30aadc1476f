"""The world that these tests look at: a real API server, seen through kubectl.

There is no kubelet and there are no controllers, so `World` plays their part where a test needs it:
it makes a Deployment's pods, and says that they are ready.
"""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from selectors import DefaultSelector
from typing import Any, Self, TypeVar

import kopf
import yaml

from hack import cache
from hack.cluster import build
from hack.cluster.apiserver import free_ports
from kvarn_operator import metrics
from kvarn_operator.config import Config
from kvarn_operator.handlers import register

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
CRDS, BASE = ROOT / "crds", ROOT / "manifests" / "base"
SYSTEM = "--namespace=kvarn-system"
PATIENCE_SECONDS = 60.0


class KubectlError(Exception):
    """What kubectl printed as it failed."""


def with_token(kubeconfig: Path, token: str, folder: Path) -> Path:
    """A copy of `kubeconfig` that knows nothing but `token`."""
    document = yaml.safe_load(kubeconfig.read_text())
    document["users"][0]["user"] = {"token": token}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    return free_ports(1)[0]


async def until(check: Callable[[], Awaitable[T]], *, say: str = "") -> T:
    """The first true answer of `check`; fails after a while."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (answer := await check()):
        assert time.monotonic() < deadline, say or f"{check} stayed {answer!r}"
        await asyncio.sleep(0.1)
    return answer


async def until_passes(more: int) -> None:
    """Wait until the operators of this process have ended so many more passes well."""

    def passes() -> float:
        return metrics.REGISTRY.get_sample_value("kvarn_reconcile_total", {"result": "ok"}) or 0.0

    wanted = passes() + more

    async def enough() -> bool:
        return passes() >= wanted

    await until(enough, say="the operator does not look")


@dataclass(frozen=True, kw_only=True)
class World:
    """One namespace of the API server."""

    command: tuple[str, ...]
    namespace: str

    @classmethod
    def of(cls, kubeconfig: Path, *, namespace: str) -> Self:
        """The namespace as the administrator with this kubeconfig sees it."""
        kube = build.build(build.KUBE, cache.default()) / "kube"
        return cls(
            command=(str(kube), "kubectl", f"--kubeconfig={kubeconfig}"), namespace=namespace
        )

    async def create(self) -> None:
        """Make the namespace."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"name": self.namespace, "labels": labels}
        await self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    async def install(self) -> None:
        """Install the CRD, and wait until it is served."""
        await self.kubectl("apply", "-f", str(CRDS))

        async def served() -> bool:
            found = await self.kubectl("api-resources", "--api-group=serving.kvarn.dev")
            return "kvarndeployments" in found

        await until(served)

    async def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        """What kubectl prints; in this namespace, unless the arguments name another."""
        process = await asyncio.create_subprocess_exec(
            *self.command,
            f"--namespace={self.namespace}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate(stdin.encode())
        if check and process.returncode:
            raise KubectlError(errors.decode())
        return output.decode()

    async def apply(self, *documents: dict[str, Any], dry_run: bool = False) -> None:
        """``kubectl apply`` as a user does it, in the server's eyes alone with `dry_run`."""
        extra = ("--dry-run=server",) if dry_run else ()
        for document in documents:
            await self.kubectl("apply", "-f", "-", *extra, stdin=json.dumps(document))

    async def forbid(self, rule: dict[str, Any], *, unless: str, message: str) -> None:
        """Have an admission policy refuse, in this namespace, what `rule` matches.

        It takes a moment until the API server minds it.

        Args:
            rule: of ``matchConstraints.resourceRules``.
            unless: CEL of what is let through.
            message: what the refused are told.
        """
        here = {"matchLabels": {"kubernetes.io/metadata.name": self.namespace}}
        policy = {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": unless, "message": message}],
        }
        binding = {
            "policyName": self.namespace,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": here},
        }
        head = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "metadata": {"name": self.namespace},
        }
        specs = {
            "ValidatingAdmissionPolicy": policy,
            "ValidatingAdmissionPolicyBinding": binding,
        }
        await self.apply(*(head | {"kind": kind, "spec": spec} for kind, spec in specs.items()))

    async def get(self, kind: str, name: str = "demo") -> dict[str, Any]:
        """An object; empty if it is not there."""
        text = await self.kubectl(
            "get", kind, name, "-o", "json", "--ignore-not-found", "--show-managed-fields"
        )
        found: dict[str, Any] = json.loads(text) if text.strip() else {}
        return found

    async def patch(
        self, kind: str, change: dict[str, Any], *, name: str = "demo", subresource: str = ""
    ) -> None:
        """A merge patch by somebody else than the operator."""
        extra = (f"--subresource={subresource}",) if subresource else ()
        await self.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps(change), *extra)

    async def condition(self, kind: str, name: str = "demo") -> dict[str, Any]:
        """A condition of the resource; empty if it has none such."""
        conditions = (await self.get("kvd", name)).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    async def until_condition(self, kind: str, status: str, *, reason: str = "") -> dict[str, Any]:
        """A condition once it is so, for the present generation."""

        async def holds() -> dict[str, Any]:
            found = await self.condition(kind)
            body = await self.get("kvd")
            now = found.get("observedGeneration") == body["metadata"]["generation"]
            same = found.get("status") == status and reason in (found.get("reason"), "")
            return found if now and same else {}

        return await until(
            holds, say=f"{kind} did not become {status} {reason}: {await self.condition(kind)}"
        )

    async def until_deployed(self) -> dict[str, Any]:
        """The Deployment once it is there."""
        return await until(lambda: self.get("deployment"))

    async def size(self) -> int:
        """The Deployment's wanted replicas."""
        deployment = await self.get("deployment")
        return int(deployment["spec"]["replicas"])

    async def until_size(self, wanted: int) -> None:
        """Wait until that many replicas are wanted."""

        async def reached() -> bool:
            return await self.size() == wanted

        await until(reached, say=f"the size did not become {wanted}")

    async def start_pod(
        self, name: str, ip: str, *, ready: bool = True, node: str = "", **status: Any
    ) -> None:
        """A pod of the Deployment, as its controller and the kubelet would make it."""
        template = (await self.get("deployment"))["spec"]["template"]
        metadata = {"name": name} | template["metadata"]
        spec = template["spec"] | ({"nodeName": node} if node else {})
        await self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        await self.set_ready(name, ip, ready=ready, **status)

    async def set_ready(self, name: str, ip: str, *, ready: bool = True, **status: Any) -> None:
        """Say of a pod that it is ready, or not yet."""
        conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
        change = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions}
        await self.patch("pod", {"status": change | status}, name=name, subresource="status")

    async def roll_out(self, *, ready: int = 1) -> None:
        """The Deployment's status once its controller has rolled it out."""
        generation = (await self.get("deployment"))["metadata"]["generation"]
        progress = {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}
        status = {
            "observedGeneration": generation,
            "replicas": ready,
            "updatedReplicas": ready,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "conditions": [progress],
        }
        await self.patch("deployment", {"status": status}, subresource="status")

    async def owners_of_size(self, kind: str = "deployment") -> list[tuple[str, str]]:
        """Manager and subresource of each entry that owns the ``replicas`` of the Deployment."""
        return [
            (entry["manager"], entry.get("subresource", ""))
            for entry in (await self.get(kind))["metadata"]["managedFields"]
            if "f:replicas" in entry["fieldsV1"].get("f:spec", {})
        ]

    async def versions(self) -> dict[str, str]:
        """The resourceVersion of everything that the operator may write."""
        kinds = "kvd,deployments,services,poddisruptionbudgets,jobs,pods"
        found = json.loads(await self.kubectl("get", kinds, "-o", "json"))["items"]
        return {
            f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
            for item in found
        }


@contextmanager
def operator(
    namespaces: str | None, config: Config, *, health_port: int = 0, wait: bool = True
) -> Iterator[None]:
    """The operator for all or these namespaces, in a thread of its own, until the block ends.

    As it ends, kopf cancels whatever else runs in its loop.
    """
    registry, ready, stop = kopf.OperatorRegistry(), threading.Event(), threading.Event()
    register(registry, config)
    running = kopf.operator(
        registry=registry,
        clusterwide=namespaces is None,
        namespaces=(namespaces or "").split(),
        standalone=True,
        liveness_endpoint=f"http://127.0.0.1:{health_port}/healthz" if health_port else None,
        ready_flag=ready,
        stop_flag=stop,
    )
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run_until_disconnected, running)
        ended.add_done_callback(lambda _: ready.set())
        if wait:
            ready.wait()
        try:
            yield
        finally:
            stop.set()
            ended.result()


def run_until_disconnected(running: Coroutine[Any, Any, None]) -> None:
    """Run in a loop of its own, which ends after the last connection.

    kopf closes its watches without waiting for what TLS has to say at the end. A process ends
    anyway; here what is left open would be found at some time in another test.
    """
    selector = DefaultSelector()

    async def disconnected() -> bool:
        return len(selector.get_map()) == 1  # the loop's own pipe

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(running)
        runner.run(until(disconnected, say="a connection stayed open"))
