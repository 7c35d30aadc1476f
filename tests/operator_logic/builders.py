"""Makers of the objects that the tests of the operator's logic start from."""

from datetime import UTC, datetime, timedelta
from typing import Any

from kvarn.planner import ModelShape
from kvarn_operator import planning
from kvarn_operator.api import KVarNDeployment
from kvarn_operator.config import Config
from kvarn_operator.planning import Planned

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CONFIG = Config(serving_image="serving:1", serving_cpu_image="serving-cpu:1")
IMAGE = "serving:1"
SHAPE = {
    "architecture": "LlamaForCausalLM",
    "layers": 2,
    "attentionHeads": 4,
    "kvHeads": 2,
    "headDim": 64,
    "hiddenSize": 256,
    "intermediateSize": 512,
    "vocabSize": 1024,
    "weightBytes": 4_000_000,
    "dtype": "bfloat16",
    "maxPositionTokens": 2048,
}
QWEN3_8B = {
    "architecture": "Qwen3ForCausalLM",
    "layers": 36,
    "attentionHeads": 32,
    "kvHeads": 8,
    "headDim": 128,
    "hiddenSize": 4096,
    "intermediateSize": 12288,
    "vocabSize": 151936,
    "weightBytes": 16381470720,
    "dtype": "bfloat16",
    "maxPositionTokens": 40960,
}


def later(seconds: float) -> datetime:
    """A time after `NOW`."""
    return NOW + timedelta(seconds=seconds)


def body(**spec: Any) -> dict[str, Any]:
    """A resource on the CPU as the API server gives it; `spec` overrides by field."""
    model = {"source": "pvc://demo-model/demo", "shape": SHAPE}
    accelerator = {"resource": "cpu", "memory": "2Gi"}
    return {
        "apiVersion": "serving.kvarn.dev/v1alpha1",
        "kind": "KVarNDeployment",
        "metadata": {"name": "demo", "namespace": "default", "uid": "uid-1", "generation": 1},
        "spec": {"model": model, "accelerator": accelerator} | spec,
    }


def target(**spec: Any) -> KVarNDeployment:
    """The same as a model."""
    return KVarNDeployment.model_validate(body(**spec))


def gpu_target(**spec: Any) -> KVarNDeployment:
    """A resource on one H100."""
    model = {"source": "hf://Qwen/Qwen3-8B", "shape": QWEN3_8B}
    accelerator = {"product": "NVIDIA-H100-80GB-HBM3"}
    return target(**({"model": model, "accelerator": accelerator} | spec))


def planned(of: KVarNDeployment, *, image: str = IMAGE) -> Planned:
    """The plan for a resource with an inline shape."""
    assert of.spec.model.shape is not None
    shape = ModelShape.from_dict(of.spec.model.shape.model_dump(by_alias=True))
    outcome = planning.plan(of, shape, {}, image=image)
    assert isinstance(outcome, Planned), outcome
    return outcome


def pod(name: str = "demo-1", *, ready: bool = True, **status: Any) -> dict[str, Any]:
    """A serving pod as the API server gives it."""
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"app.kubernetes.io/component": "server"},
            "annotations": {},
        },
        "status": {"podIP": "10.0.0.1", "conditions": [condition]} | status,
    }
