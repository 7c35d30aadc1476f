"""What is wanted: the spec of a ``KVarNDeployment``."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kvarn_operator.api.autoscaling import Autoscaling
from kvarn_operator.api.base import (
    ApiModel,
    AutoInt,
    IntOrPercent,
    Memory,
    OpenObject,
    Quantities,
    rule,
    rules,
)
from kvarn_operator.api.model import Model
from kvarn_operator.api.template import PodTemplate

Format = Literal[
    "auto",
    "bf16",
    "fp8",
    "kvarn_k4v4_g128",
    "kvarn_k4v3_g128",
    "kvarn_k4v2_g128",
    "kvarn_k3v3_g128",
]


class Accelerator(ApiModel):
    """What one pod runs on."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.resource != 'cpu' || (self.count == 1 && !has(self.product))",
                "with resource cpu, leave out product and count",
            ),
            rule(
                "self.resource != 'cpu' || !has(self.utilizationPercent)",
                "with resource cpu, leave out utilizationPercent: memory is what the pod may use",
            ),
        )
    )

    product: str | None = Field(
        default=None, max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
    )
    """The node's nvidia.com/gpu.product label; if absent, the one product that the cluster has when
    it is first planned, from then on.
    """
    count: int = Field(default=1, ge=1, le=64)
    """Accelerators of one pod, over which the model is split by tensor parallelism."""
    resource: str = Field(
        default="nvidia.com/gpu",
        max_length=253,
        pattern=r"^(cpu|[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)$",
    )
    """The pod's resource: nvidia.com/gpu, a MIG profile such as nvidia.com/mig-3g.40gb, or cpu."""
    memory: Memory | None = None
    """Memory of one accelerator, if neither the planner knows the product nor its node's
    nvidia.com/gpu.memory label can be read; with cpu, of the pod.
    """
    utilization_percent: int | None = Field(default=None, ge=10, le=99)
    """Share of the accelerator's memory that vLLM may use; vLLM's own default if absent."""


class Cache(ApiModel):
    """The KV cache."""

    format: Format = "auto"
    """Precision of the cache; auto chooses, and says why in status.plan.reason."""


class Workload(ApiModel):
    """The requests that the limits are solved for; the planner's typical chat if absent."""

    prompt_tokens: int | None = Field(default=None, ge=1, le=16777216)
    """Tokens of a prompt."""
    output_tokens: int | None = Field(default=None, ge=1, le=16777216)
    """Tokens of an answer."""
    concurrency: int | None = Field(default=None, ge=1, le=65536)
    """Requests that one replica works on at once."""


class Context(ApiModel):
    """Length of one request."""

    max_tokens: AutoInt = "auto"
    """Most tokens of prompt and answer together."""


class Batching(ApiModel):
    """How much work one step of the engine takes on."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "type(self.maxSequences) != int || type(self.maxBatchedTokens) != int"
                " || self.maxBatchedTokens >= self.maxSequences",
                "maxBatchedTokens must be at least maxSequences:"
                " each running sequence needs a token in each step",
            )
        )
    )

    max_sequences: AutoInt = "auto"
    """Most sequences that run at once."""
    max_batched_tokens: AutoInt = "auto"
    """Most tokens that one step computes."""


class Rollout(ApiModel):
    """How the pods of one template are replaced by those of the next, as in a Deployment."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!(string(self.maxSurge) in ['0', '0%']"
                " && string(self.maxUnavailable) in ['0', '0%'])",
                "maxSurge and maxUnavailable cannot both be 0: no pod could be replaced",
            )
        )
    )

    max_surge: IntOrPercent = 1
    """Pods beyond the size; 0 where no accelerator is to spare."""
    max_unavailable: IntOrPercent = 0
    """Pods below the size; 1 or more where maxSurge is 0."""


class EnvVar(ApiModel):
    """One environment variable of the server."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.valueFrom) || !has(self.value) || self.value == ''",
                "give value or valueFrom, not both",
            )
        )
    )

    name: str = Field(min_length=1, max_length=256)
    """Name of the variable."""
    value: str | None = Field(default=None, max_length=32768)
    """Its value."""
    value_from: OpenObject | None = None
    """Its source, as in a container."""


class EngineResources(ApiModel):
    """Requests and limits of the server beyond the accelerators, as in a container."""

    requests: Quantities = Field(default_factory=dict)
    """What the pod is guaranteed."""
    limits: Quantities = Field(default_factory=dict)
    """What the pod may use at most."""


PLANNED_FLAGS = (
    "--model",
    "--served-model-name",
    "--host",
    "--port",
    "--kv-cache-dtype",
    "--max-model-len",
    "--max-num-seqs",
    "--max-num-batched-tokens",
    "--gpu-memory-utilization",
    "--device-memory-utilization",
    "--kv-cache-memory-bytes",
    "--tensor-parallel-size",
    "-tp",
    "--shutdown-timeout",
    "--revision",
)
"""Flags of vLLM that the operator sets, each from a field of the resource."""
PLANNED_NOWHERE = (
    "self.map(arg, arg.split('=', 2)[0].replace('_', '-')).all(name, !name.matches('^--?[a-z]')"
    f" || !{list(PLANNED_FLAGS)}.exists(flag, flag.startsWith(name)))"
)
"""vLLM takes them with underscores and cut short, too."""


class Engine(ApiModel):
    """The server that the pods run."""

    image: str | None = Field(default=None, min_length=1, max_length=512)
    """Serving image; the operator's default for the accelerator if absent."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the image is pulled."""
    args: list[Annotated[str, Field(max_length=1024)]] = Field(
        default_factory=list,
        max_length=64,
        json_schema_extra={
            "x-kubernetes-list-type": "atomic",
            **rules(
                rule(
                    PLANNED_NOWHERE,
                    "these flags are planned: set accelerator, cache, context, batching, model or"
                    " drainSeconds instead of passing them in engine.args",
                )
            ),
        },
    )
    """More flags of vllm serve, after the planned ones."""
    env: list[EnvVar] = Field(
        default_factory=list,
        max_length=64,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    """More environment variables."""
    resources: EngineResources = EngineResources()
    """CPU and memory of the server."""


class Spec(ApiModel):
    """What is wanted."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.replicas) || !has(self.autoscaling) || self.autoscaling.mode == 'none'",
                "replicas has one owner: remove it, or set autoscaling.mode to none",
            ),
            rule(
                "!has(self.workload) || !has(self.workload.promptTokens)"
                " || !has(self.workload.outputTokens) || type(self.context.maxTokens) != int"
                " || self.workload.promptTokens + self.workload.outputTokens"
                " <= self.context.maxTokens",
                "workload.promptTokens and outputTokens together must fit context.maxTokens",
            ),
            rule(
                "self.accelerator.resource == 'cpu'"
                " || !(has(self.engine.resources.limits)"
                " && self.accelerator.resource in self.engine.resources.limits"
                " || has(self.engine.resources.requests)"
                " && self.accelerator.resource in self.engine.resources.requests)",
                "accelerator.count says how many accelerators a pod has: leave it out of"
                " engine.resources",
            ),
        )
    )

    model: Model
    """The model to serve."""
    accelerator: Accelerator = Accelerator()
    """What one pod runs on."""
    cache: Cache = Cache()
    """The KV cache."""
    workload: Workload | None = None
    """The requests that the limits are solved for."""
    context: Context = Context()
    """Length of one request."""
    batching: Batching = Batching()
    """How much work one step of the engine takes on."""
    replicas: int | None = Field(default=None, ge=0, le=1000)
    """Number of pods; absent when an autoscaler owns it."""
    autoscaling: Autoscaling | None = None
    """Who decides the number of replicas; nobody but spec.replicas if absent."""
    drain_seconds: int = Field(default=300, ge=0, le=3600)
    """How long a stopping pod may take to finish the requests that it has; it ends once it has."""
    rollout: Rollout = Rollout()
    """How pods are replaced."""
    engine: Engine = Engine()
    """The server that the pods run."""
    pod_template: PodTemplate | None = None
    """Overlay on the pods' template, merged strategically: metadata and spec of a PodTemplate. To
    remove a map or a named item, give it $patch: delete; null does not outlive kubectl apply.
    """
