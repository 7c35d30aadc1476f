"""What the API server says to a resource at ``kubectl apply``."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.apiserver.world import KubectlError, World

FOLDER = Path(__file__).parents[2] / "manifests" / "samples"
SAMPLES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}

BAD = [
    ({"model": {}}, "spec.model.source: Required value"),
    ({"model": {"source": "s3://bucket/model"}}, "give hf://org/name, pvc://claim/path"),
    ({"model": {"source": "host:///srv/../etc"}}, "source must not contain '..'"),
    ({"model": {"source": "pvc://m/x", "revision": "v1"}}, "are for hf:// sources: remove them"),
    ({"accelerator": {"resource": "cpu", "count": 2}}, "leave out product and count"),
    (
        {"accelerator": {"resource": "cpu", "utilizationPercent": 50}},
        "with resource cpu, leave out utilizationPercent: memory is what the pod may use",
    ),
    ({"accelerator": {"count": 0}}, "should be greater than or equal to 1"),
    *(
        ({"accelerator": {"memory": size}}, "give a size such as 80Gi")
        for size in ("lots", 0, "0", "-1Gi", "+5Gi", "100m", "1e-100", "1e100", "1Ei", 2**60)
    ),
    ({"cache": {"format": "int2"}}, 'supported values: "auto", "bf16"'),
    ({"context": {"maxTokens": "long"}}, "or auto"),
    ({"context": {"maxTokens": 0}}, "give a whole number between 1 and"),
    ({"batching": {"maxSequences": 64, "maxBatchedTokens": 32}}, "must be at least maxSequences"),
    (
        {
            "workload": {"promptTokens": 4000, "outputTokens": 500},
            "context": {"maxTokens": 4096},
        },
        "must fit context.maxTokens",
    ),
    ({"replicas": -1}, "should be greater than or equal to 0"),
    ({"replicas": 2, "autoscaling": {"maxReplicas": 3}}, "replicas has one owner"),
    ({"autoscaling": {"minReplicas": 4, "maxReplicas": 3}}, "must not be greater than maxReplicas"),
    ({"autoscaling": {"mode": "builtin"}}, "maxReplicas is missing"),
    ({"autoscaling": {"mode": "hpa"}}, "maxReplicas is missing"),
    ({"autoscaling": {"mode": "keda", "maxReplicas": 3}}, "prometheusAddress is missing"),
    (
        {"autoscaling": {"mode": "magic", "maxReplicas": 3}},
        'supported values: "builtin", "hpa", "keda", "none"',
    ),
    ({"autoscaling": {"minReplicas": 0, "maxReplicas": 3}}, "greater than or equal to 1"),
    ({"replicas": 2, "autoscaling": {"mode": "hpa", "maxReplicas": 3}}, "replicas has one owner"),
    (
        {"autoscaling": {"maxReplicas": 3, "targetPressurePercent": 0}},
        "should be greater than or equal to 10",
    ),
    (
        {
            "autoscaling": {
                "maxReplicas": 3,
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": -1}},
            }
        },
        "should be greater than or equal to 0",
    ),
    (
        {
            "autoscaling": {
                "maxReplicas": 3,
                "behavior": {"scaleUp": {"stabilizationWindowSeconds": -1}},
            }
        },
        "should be greater than or equal to 0",
    ),
    (
        {
            "autoscaling": {
                "maxReplicas": 3,
                "behavior": {
                    "scaleUp": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 15}]}
                },
            }
        },
        "should be greater than or equal to 1",
    ),
    ({"drainSeconds": -5}, "should be greater than or equal to 0"),
    ({"rollout": {"maxSurge": 0}}, "cannot both be 0"),
    ({"rollout": {"maxSurge": "0%", "maxUnavailable": "0%"}}, "cannot both be 0"),
    ({"rollout": {"maxUnavailable": "101%"}}, "give a whole number of pods, or a share"),
    *(
        ({"engine": {"args": args}}, "these flags are planned")
        for args in (
            ["--max-model-len=9"],
            ["--enforce-eager", "--max_model_len=9"],
            ["--max_model-len", "9"],
            ["-tp", "2"],
            ["-tp=2"],
            ["--tensor_par", "2"],
            ["--gpu-mem", ".99"],
            ["--device_memory_utilization=.99"],
            ["--kv-cache-d=auto"],
        )
    ),
    *(
        (
            {"accelerator": {"count": 2}, "engine": {"resources": {part: {"nvidia.com/gpu": 2}}}},
            "leave it out of engine.resources",
        )
        for part in ("limits", "requests")
    ),
    (
        {"engine": {"env": [{"name": "A", "value": "x", "valueFrom": {"fieldRef": {}}}]}},
        "give value or valueFrom, not both",
    ),
    ({"engine": {"resources": {"limits": {"memory": "lots"}}}}, "should match"),
    ({"engine": {"resources": {"limits": {"memory": "-1Gi"}}}}, "should match"),
    ({"engine": {"resources": {"requests": {"cpu": -1}}}}, "greater than or equal to 0"),
    ({"podTemplate": "x"}, "must be of type object"),
    ({"podTemplate": {"spec": "x"}}, "must be of type object"),
    ({"podTemplate": {"spec": {"containers": [{"image": "x"}]}}}, "name: Required value"),
    ({"podTemplate": {"spec": {"volumes": [{"emptyDir": {}}]}}}, "name: Required value"),
    *(
        ({"podTemplate": {"spec": {"containers": [{"name": "server"} | part]}}}, says)
        for part, says in (
            ({"volumeMounts": [{"name": "x"}]}, "mountPath: Required value"),
            ({"env": [{"value": "x"}]}, "name: Required value"),
            ({"ports": [{"name": "x"}]}, "containerPort: Required value"),
        )
    ),
]
GOOD = [
    {"engine": {"args": ["--max-logprobs", "5", "-O3", "--model-impl=vllm", "--", "-"]}},
    {"engine": {"resources": {"limits": {"memory": "1.5Gi", "cpu": "500m", "x.y/z": 1}}}},
    {"engine": {"resources": {"requests": {"cpu": "0.5", "memory": 0}}}},
    {"accelerator": {"resource": "cpu", "memory": "1.5Gi"}},
    {"accelerator": {"memory": "1E"}},
    {"engine": {"env": [{"name": "A"}, {"name": "B", "value": "", "valueFrom": {"fieldRef": {}}}]}},
    {
        "podTemplate": {
            "metadata": {"annotations": {"a": "b"}},
            "spec": {
                "priorityClassName": "high",
                "containers": [{"name": "proxy", "image": "x", "resources": {}}],
                "volumes": [{"name": "tmp", "$patch": "delete"}],
            },
        }
    },
]


SHAPES = [
    ({"kvHeads": 3}, "attentionHeads must be a multiple of kvHeads"),
    ({"slidingLayers": 3}, "slidingLayers must not be more than layers"),
    ({"layerKinds": [{"kind": "full", "layers": 3}]}, "layerKinds must not have more layers"),
    (
        {"layerKinds": [{"kind": "window", "layers": 2}, {"kind": "full", "layers": 1}]},
        "layerKinds must not have more layers than the model",
    ),
]


def with_spec(resource: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    return resource | {"spec": resource["spec"] | spec}


@pytest.mark.parametrize("sample", SAMPLES)
async def test_samples_are_accepted(world: World, sample: str) -> None:
    await world.apply(SAMPLES[sample], dry_run=True)


@pytest.mark.parametrize(("spec", "says"), BAD, ids=lambda value: str(value)[:60])
async def test_bad_input_is_refused_in_a_sentence(
    world: World, resource: dict[str, Any], spec: dict[str, Any], says: str
) -> None:
    with pytest.raises(KubectlError) as refusal:
        await world.apply(with_spec(resource, spec), dry_run=True)

    assert says in str(refusal.value)


@pytest.mark.parametrize(("shape", "says"), SHAPES, ids=lambda value: str(value)[:60])
async def test_a_shape_that_contradicts_itself_is_refused_in_a_sentence(
    world: World, resource: dict[str, Any], shape: dict[str, Any], says: str
) -> None:
    resource["spec"]["model"]["shape"] |= shape

    with pytest.raises(KubectlError) as refusal:
        await world.apply(resource, dry_run=True)

    assert says in str(refusal.value)


async def test_an_index_beside_each_layer_is_no_layer(
    world: World, resource: dict[str, Any]
) -> None:
    kinds = [{"kind": "latent", "layers": 2}, {"kind": "index", "layers": 2}]
    resource["spec"]["model"]["shape"] |= {"layerKinds": kinds, "slidingLayers": 2}

    await world.apply(resource, dry_run=True)


@pytest.mark.parametrize("spec", GOOD, ids=lambda value: str(value)[:60])
async def test_what_may_be_said_is_kept_as_it_is(
    world: World, resource: dict[str, Any], spec: dict[str, Any]
) -> None:
    await world.apply(with_spec(resource, spec))

    kept = (await world.get("kvd"))["spec"]
    assert {name: kept[name] | spec[name] for name in spec} == {name: kept[name] for name in spec}


async def test_an_empty_pod_template_is_none(world: World, resource: dict[str, Any]) -> None:
    resource["spec"]["podTemplate"] = {"metadata": None, "spec": None}

    await world.apply(resource)

    assert (await world.get("kvd"))["spec"]["podTemplate"] == {}


@pytest.mark.parametrize("name", ["9lives", "a.b", "x" * 46])
async def test_a_name_that_no_service_can_have_is_refused(
    world: World, resource: dict[str, Any], name: str
) -> None:
    resource["metadata"]["name"] = name

    with pytest.raises(KubectlError, match="it becomes the name of a Service"):
        await world.apply(resource, dry_run=True)


async def test_only_the_source_is_required(world: World, resource: dict[str, Any]) -> None:
    resource["spec"] = {"model": {"source": "hf://Qwen/Qwen3-8B"}}

    await world.apply(resource)

    spec = (await world.get("kvd"))["spec"]
    assert spec["cache"]["format"] == "auto"
    assert spec["accelerator"] == {"count": 1, "resource": "nvidia.com/gpu"}
    assert "replicas" not in spec


async def test_kubectl_explains_fields_and_lists_columns(
    world: World, resource: dict[str, Any]
) -> None:
    await world.apply(resource)

    explained = await world.kubectl("explain", "kvd.spec.autoscaling.targetPressurePercent")
    listed = await world.kubectl("get", "kvd")

    assert "at which a replica counts as full" in explained
    assert listed.split()[:4] == ["NAME", "READY", "REASON", "FORMAT"]
