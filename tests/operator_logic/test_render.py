"""The children, byte for byte."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kvarn_operator import render
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.observe import TEMPLATE_HASH
from tests.operator_logic.builders import CONFIG, QWEN3_8B, SHAPE, gpu_target, planned, target

GOLDEN = Path(__file__).parent / "golden"
HUB = {"source": "hf://Qwen/Qwen3-8B", "revision": "abc", "shape": QWEN3_8B}
CASES = {
    "cpu": target(),
    "gpu": gpu_target(model=HUB | {"tokenSecret": {"name": "hub"}}),
    "host": target(model={"source": "host:///srv/demo", "shape": SHAPE}),
}


def pod(of: KVarNDeployment) -> dict[str, Any]:
    spec: dict[str, Any] = render.template(of, planned(of), CONFIG)["spec"]
    return spec


def container(of: KVarNDeployment) -> dict[str, Any]:
    server: dict[str, Any] = pod(of)["containers"][0]
    return server


@pytest.mark.parametrize("case", CASES)
def test_an_upgrade_of_the_operator_rolls_no_pod(case: str) -> None:
    """Whoever changes these files rolls every server in every cluster.

    ``python -m tests.operator_logic.test_render`` writes them anew.
    """
    of = CASES[case]

    children = render.children(of, planned(of), CONFIG)

    assert list(children) == list(yaml.safe_load_all((GOLDEN / f"{case}.yaml").read_text()))


def test_equal_input_gives_equal_bytes() -> None:
    first, second = (
        yaml.safe_dump_all(render.children(target(), planned(target()), CONFIG)) for _ in range(2)
    )

    assert first == second


def test_the_hash_follows_the_template() -> None:
    hashes = {
        render.template(of, planned(of), CONFIG)["metadata"]["annotations"][TEMPLATE_HASH]
        for of in (target(), target(drainSeconds=31), target(engine={"args": ["--enforce-eager"]}))
    }

    assert len(hashes) == 3


def rolling_update(of: KVarNDeployment, *, stuck: bool = False) -> dict[str, Any]:
    made = render.deployment(of, planned(of), CONFIG, stuck=stuck)["spec"]["strategy"]
    assert made["type"] == "RollingUpdate"
    return dict(made["rollingUpdate"])


def test_a_roll_out_starts_the_new_server_first_unless_told_otherwise() -> None:
    full_pool = target(rollout={"maxSurge": 0, "maxUnavailable": "25%"})

    assert rolling_update(target()) == {"maxSurge": 1, "maxUnavailable": 0}
    assert rolling_update(full_pool) == {"maxSurge": 0, "maxUnavailable": "25%"}


def test_a_roll_out_that_is_stuck_may_take_what_failed_and_rolls_no_pod() -> None:
    free, stuck = (
        render.deployment(target(), planned(target()), CONFIG, stuck=stuck)["spec"]
        for stuck in (False, True)
    )

    assert rolling_update(target(), stuck=True) == {"maxSurge": 1, "maxUnavailable": "100%"}
    assert free["template"] == stuck["template"]


def test_the_size_is_not_part_of_the_deployment() -> None:
    of = target(replicas=3)

    assert "replicas" not in render.deployment(of, planned(of), CONFIG)["spec"]


def test_a_roll_out_has_time_for_a_new_node_and_its_image_before_it_counts_as_failed() -> None:
    of = target()
    spec = render.deployment(of, planned(of), CONFIG)["spec"]
    probe = container(of)["startupProbe"]

    loads = probe["periodSeconds"] * probe["failureThreshold"]
    assert spec["progressDeadlineSeconds"] >= loads + 15 * 60


def test_the_kubelet_waits_longer_than_the_server_drains() -> None:
    of = target(drainSeconds=120)
    args = container(of)["args"]

    assert args[args.index("--shutdown-timeout") + 1] == "120"
    sleep = container(of)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(of)["terminationGracePeriodSeconds"] > sleep + 120


def test_a_long_answer_may_end_and_a_node_autoscaler_waits_for_it_by_default() -> None:
    """The cluster autoscaler grants ten minutes (--max-graceful-termination-sec)."""
    args = container(target())["args"]

    assert args[args.index("--shutdown-timeout") + 1] == "300"
    assert pod(target())["terminationGracePeriodSeconds"] <= 600


def test_a_roll_out_may_wait_for_a_server_to_drain_before_the_next_one_loads() -> None:
    of = target(drainSeconds=3600, rollout={"maxSurge": 0, "maxUnavailable": 1})

    deadline = render.deployment(of, planned(of), CONFIG)["spec"]["progressDeadlineSeconds"]

    assert deadline > pod(of)["terminationGracePeriodSeconds"] + render.load_seconds(planned(of))


def test_a_large_model_may_take_longer_to_start() -> None:
    small, large = planned(target()), planned(gpu_target())

    assert render.load_seconds(small) == 600
    assert render.load_seconds(large) == 600 + 15 * 20


def test_an_overlay_adds_and_overrides_but_loses_no_pod() -> None:
    overlay = {
        "metadata": {"labels": {"team": "a", "app.kubernetes.io/component": "stolen"}},
        "spec": {"priorityClassName": "high", "containers": [{"name": "server", "tty": True}]},
    }
    of = target(podTemplate=overlay)

    made = render.template(of, planned(of), CONFIG)

    labels = made["metadata"]["labels"]
    matched = render.deployment(of, planned(of), CONFIG)["spec"]["selector"]["matchLabels"]
    assert labels["team"] == "a"
    assert matched.items() <= labels.items()
    assert made["spec"]["priorityClassName"] == "high"
    assert made["spec"]["containers"][0]["tty"]
    assert made["spec"]["containers"][0]["args"] == container(target())["args"]


def test_variables_and_resources_of_the_user_win() -> None:
    engine = {
        "env": [{"name": "HOME", "value": "/home"}, {"name": "OMP_NUM_THREADS", "value": "1"}],
        "resources": {"requests": {"cpu": "200m"}, "limits": {"memory": "3Gi"}},
    }
    found = container(target(engine=engine))

    variables = {variable["name"]: variable["value"] for variable in found["env"]}
    assert (variables["HOME"], variables["OMP_NUM_THREADS"]) == ("/home", "1")
    assert found["resources"]["requests"]["cpu"] == "200m"
    assert found["resources"]["limits"]["memory"] == "3Gi"


@pytest.mark.parametrize(
    ("stated", "requested"),
    [
        ({"limits": {"cpu": "500m"}}, "500m"),
        ({"limits": {"cpu": "0.5"}}, "0.5"),
        ({"limits": {"cpu": "5n"}}, "5n"),
        ({"limits": {"cpu": 1}}, "1"),
        ({"limits": {"cpu": "4"}}, "1"),
        ({"limits": {"cpu": "500m"}, "requests": {"cpu": "200m"}}, "200m"),
    ],
    ids=str,
)
def test_no_more_of_the_cpu_is_asked_for_than_may_be_used(
    stated: dict[str, Any], requested: str
) -> None:
    resources = container(target(engine={"resources": stated}))["resources"]

    assert resources["requests"]["cpu"] == requested
    assert resources["limits"]["cpu"] == str(stated["limits"]["cpu"])


def test_a_mirror_of_the_hub_is_handed_on() -> None:
    mirrored = replace(CONFIG, hub_endpoint="https://hub.example")
    of = gpu_target()

    env = render.template(of, planned(of), mirrored)["spec"]["containers"][0]["env"]

    assert {"name": "HF_ENDPOINT", "value": "https://hub.example"} in env


if __name__ == "__main__":
    for name, resource in CASES.items():
        written = render.children(resource, planned(resource), CONFIG)
        (GOLDEN / f"{name}.yaml").write_text(yaml.safe_dump_all(written, sort_keys=False))
