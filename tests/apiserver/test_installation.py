"""What is shipped for an installation: overlays that can be applied again and again."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.install import EXAMPLE, installation
from hack.cluster.access import RemoteCluster
from kvarn_operator.config import Config
from tests.apiserver.world import ROOT, World, operator, with_token

MANIFESTS = ROOT / "manifests"
OVERLAYS = sorted(path.parent.name for path in MANIFESTS.glob("*/kustomization.yaml"))
SERVING = {"KVARN_SERVING_IMAGE", "KVARN_SERVING_CPU_IMAGE"}
Objects = Mapping[str, dict[str, Any]]


async def rendered(world: World, overlay: Path) -> Objects:
    """The objects of an overlay by their kind, of which it has one each."""
    text = await world.kubectl("kustomize", str(overlay))
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def container(objects: Objects) -> dict[str, Any]:
    """The operator's container."""
    (only,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(only)


@pytest.fixture
def local(world: World, tmp_path: Path) -> Path:
    """An installation in the namespace of `world`, for that one alone: an edited copy."""
    manifests = shutil.copytree(MANIFESTS, tmp_path / "manifests")
    overlay = shutil.copytree(manifests / "example", manifests / "local")
    file = overlay / "kustomization.yaml"
    text = file.read_text().replace("../base", "../namespaced")
    file.write_text(text.replace("namespace: kvarn-system", f"namespace: {world.namespace}"))
    return overlay


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_an_overlay_is_what_the_api_server_takes(
    world: World, manifests: None, overlay: str
) -> None:
    """Of another API that is not installed here, kustomize alone is asked."""
    text = await world.kubectl("kustomize", str(MANIFESTS / overlay))

    if "monitoring.coreos.com" not in text:
        here = ("apply", "--dry-run=server", "--namespace=", "-f", "-")
        await world.kubectl(*here, stdin=text)


async def test_an_installation_says_once_which_images_run(world: World) -> None:
    base = await rendered(world, MANIFESTS / "base")
    example = await rendered(world, EXAMPLE)

    assert not SERVING & {variable["name"] for variable in container(base)["env"]}
    assert container(example)["image"].startswith("registry.example/kvarn-operator:")
    settings = example["ConfigMap"]
    assert settings["data"].keys() == SERVING
    (source,) = container(example)["envFrom"]
    assert source["configMapRef"]["name"] == settings["metadata"]["name"]


async def test_the_demo_installs_the_example_with_the_clusters_images(world: World) -> None:
    text = await world.kubectl("kustomize", str(EXAMPLE))

    changed = installation(text, RemoteCluster(Path(), "r.example"))

    objects = {document["kind"]: document for document in yaml.safe_load_all(changed)}
    assert container(objects)["image"] == "r.example/kvarn-operator:dev"
    assert objects["ConfigMap"]["data"] == {
        "KVARN_SERVING_IMAGE": "r.example/kvarn-serving:dev",
        "KVARN_SERVING_CPU_IMAGE": "r.example/kvarn-serving-cpu:dev",
    }


async def test_an_installation_is_applied_again_without_a_change(world: World, local: Path) -> None:
    await world.kubectl("apply", "-k", str(local))

    again = await world.kubectl("apply", "-k", str(local))

    lines = again.splitlines()
    assert len(lines) == 6
    assert [line for line in lines if not line.endswith(" unchanged")] == []


async def test_another_setting_starts_the_operator_anew(world: World, local: Path) -> None:
    await world.kubectl("apply", "-k", str(local))
    before = await world.get("deployment", "kvarn-operator")

    file = local / "kustomization.yaml"
    file.write_text(file.read_text().replace("kvarn-serving:0.1.0", "kvarn-serving:0.2.0"))
    await world.kubectl("apply", "-k", str(local))

    after = await world.get("deployment", "kvarn-operator")
    assert after["spec"]["template"] != before["spec"]["template"]


@pytest.fixture
async def as_local(
    world: World, local: Path, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let what starts from here on be the service account of that installation."""
    await world.kubectl("apply", "-k", str(local))
    token = await world.kubectl("create", "token", "kvarn-operator")
    monkeypatch.setenv("KUBECONFIG", str(with_token(kubeconfig, token.strip(), tmp_path)))


async def test_roles_in_a_namespace_are_enough_for_an_operator_of_that_namespace(
    world: World, resource: dict[str, Any], config: Config, as_local: None
) -> None:
    resource["spec"]["accelerator"] = {}

    with operator(world.namespace, config):
        await world.apply(resource)
        unknown = await world.until_condition("Planned", "False", reason="UnknownAccelerator")
        assert "give accelerator.product" in unknown["message"]
        await world.patch("kvd", {"spec": {"accelerator": {"product": "NVIDIA-H200"}}})
        await world.until_condition("Planned", "True")


@pytest.mark.parametrize(("namespace", "answer"), [("", "yes"), ("--namespace=default", "no")])
async def test_an_operator_of_a_namespace_has_no_say_in_another(
    world: World, as_local: None, namespace: str, answer: str
) -> None:
    account = f"--as=system:serviceaccount:{world.namespace}:kvarn-operator"
    where = (namespace,) if namespace else ()

    said = await world.kubectl("auth", "can-i", "patch", "pods", account, *where, check=False)

    assert said.strip() == answer


async def test_an_operator_of_a_namespace_is_told_which(world: World, local: Path) -> None:
    objects = await rendered(world, local)

    own = {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert {"name": "KVARN_NAMESPACES", "valueFrom": own} in container(objects)["env"]
    assert not [kind for kind in objects if kind.startswith(("Cluster", "Namespace"))]
