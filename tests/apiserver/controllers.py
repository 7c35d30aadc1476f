"""The real HorizontalPodAutoscaler controller, and the aggregation layer as it is without nodes."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from hack import cache
from hack.cluster import build, components, pki
from tests.apiserver.world import ROOT, World

METRICS_API = ROOT / "manifests" / "metrics-api"
OPTIONS = (
    "--controllers=horizontal-pod-autoscaler-controller",
    "--horizontal-pod-autoscaler-sync-period=1s",
    "--secure-port=0",
)


@contextmanager
def autoscaler_controller(kubeconfig: Path, log: Path) -> Iterator[None]:
    """Kubernetes' own controller of HorizontalPodAutoscalers, until the block ends."""
    kube = build.build(build.KUBE, cache.default()) / "kube"
    keys, own = kubeconfig.parent / "pki", log.with_suffix(".kubeconfig")
    server = json.loads(kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    pki.write_kubeconfig(own, pki=keys, user="controller-manager", server=server)
    command = components.controller_manager(kube, pki=keys, kubeconfig=own)
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command, *OPTIONS], stdout=output, stderr=output
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def install_metrics_api(world: World, *, port: int) -> None:
    """Apply the manifests, and lead the Service to this machine, as there are no nodes."""
    await world.kubectl("create", "namespace", "kvarn-system", check=False)
    documents = list(yaml.safe_load_all(await world.kubectl("kustomize", str(METRICS_API))))
    for document in documents:
        if document["kind"] == "APIService":
            document["spec"]["service"]["port"] = port
        if document["kind"] == "Service":
            document["spec"] = {"type": "ExternalName", "externalName": "localhost"}
    everywhere = replace(world, namespace="")
    await everywhere.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))
