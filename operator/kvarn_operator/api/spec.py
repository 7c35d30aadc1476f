"""What is wanted: the spec of a ``KVarNDeployment``."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kvarn_operator.api.autoscaling import Autoscaling
from kvarn_operator.api.base import (
    ApiModel,
    AutoInt,
    Memory,
    Name,
    OpenObject,
    Quantities,
    rule,
    rules,
)

Format = Literal[
    "auto",
    "bf16",
    "fp8",
    "kvarn_k4v4_g128",
    "kvarn_k4v3_g128",
    "kvarn_k4v2_g128",
    "kvarn_k3v3_g128",
]


class SecretKey(ApiModel):
    """One key of a Secret in the same namespace."""

    name: Name
    """Name of the Secret."""
    key: str = Field(default="token", min_length=1, max_length=253)
    """Key within the Secret."""


class ModelCache(ApiModel):
    """Where weights that are downloaded from a hub are kept."""

    claim_name: Name | None = None
    """A PersistentVolumeClaim; without one each pod downloads into its own emptyDir."""
    size_limit: Memory | None = None
    """Size limit of the emptyDir."""


class LayerKind(ApiModel):
    """Layers that keep a cache of one kind."""

    kind: Literal["full", "window", "chunk", "latent", "index", "state"]
    """Which tokens they keep, and how: see the planner's LayerKind."""
    layers: int = Field(ge=1, le=4096)
    """How many."""
    kv_heads: int = Field(default=0, ge=0, le=4096)
    """Key and value heads."""
    head_dim: int = Field(default=0, ge=0, le=8192)
    """Numbers of a key, or of a latent vector."""
    value_dim: int = Field(default=0, ge=0, le=8192)
    """Numbers of a value; 0 for as many as a key has."""
    window_tokens: int = Field(default=0, ge=0)
    """Tokens that a window or a chunk reaches."""
    token_bytes: int = Field(default=0, ge=0)
    """Bytes of a token in an index."""
    state_bytes: int = Field(default=0, ge=0)
    """Bytes of a sequence in one recurrent layer, over all accelerators together."""


class Shape(ApiModel):
    """The numbers that decide what the weights and the KV cache of a model take."""

    architecture: str = Field(max_length=128)
    """Class name in the model's config, for instance Qwen3ForCausalLM."""
    layers: int = Field(ge=1, le=4096)
    """Decoder layers."""
    attention_heads: int = Field(ge=1, le=4096)
    """Query heads of a layer."""
    kv_heads: int = Field(ge=1, le=4096)
    """Key and value heads of a layer."""
    head_dim: int = Field(ge=1, le=8192)
    """Numbers in one head."""
    hidden_size: int = Field(ge=1)
    """Width of the residual stream."""
    intermediate_size: int = Field(ge=1)
    """Width of the MLP that runs on each token."""
    vocab_size: int = Field(ge=1)
    """Rows of the embedding."""
    weight_bytes: int = Field(ge=1)
    """All weights as vLLM holds them, over all accelerators together."""
    dtype: Literal["bfloat16", "float16", "float32"]
    """What the model computes in."""
    max_position_tokens: int = Field(ge=1)
    """The longest context that the model was made for."""
    tied_embeddings: bool = False
    """Whether the output layer shares the embedding's weights."""
    quantization: str = Field(default="", max_length=64)
    """vLLM's name of the weights' quantisation; empty for plain weights."""
    sliding_window_tokens: int = Field(default=0, ge=0)
    """How far the sliding layers look back."""
    sliding_layers: int = Field(default=0, ge=0)
    """How many of the layers look back only that far."""
    attention_traits: list[Annotated[str, Field(max_length=64)]] = Field(
        default_factory=list, max_length=16, json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """What attention needs beyond plain softmax: softcap, sinks, alibi."""
    layer_kinds: list[LayerKind] = Field(
        default_factory=list, max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    """Layers by cache, for a model whose layers differ in more than a window."""
    expert_bytes: int = Field(default=0, ge=0)
    """The part of weightBytes that lies in routed experts."""
    experts: int = Field(default=0, ge=0)
    """Routed experts in a layer."""
    experts_per_token: int = Field(default=0, ge=0)
    """How many of them a token visits."""
    active_parameters: int = Field(default=0, ge=0)
    """Weights that a token is multiplied with; 0 for all."""
    multimodal: bool = False
    """Whether an encoder for images or sound is loaded beside the language model."""
    encoder_bytes: int = Field(default=0, ge=0)
    """Peak of such an encoder for the largest image."""
    pooling: bool = False
    """Whether the model embeds texts, and so samples nothing."""


class Model(ApiModel):
    """The model to serve."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.source.startsWith('hf://')"
                " || !(has(self.revision) || has(self.tokenSecret) || has(self.cache))",
                "revision, tokenSecret and cache are for hf:// sources: remove them",
            ),
            rule(
                "!self.source.matches('(^|/)[.][.](/|$)')",
                "source must not contain '..': give the path itself",
            ),
        )
    )

    source: str = Field(
        max_length=512,
        json_schema_extra=rules(
            rule(
                "self.matches('^hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$')"
                " || self.matches('^pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[^/ ]+)*/?$')"
                " || self.matches('^host://(/[^/ ]+)+/?$')",
                "give hf://org/name, pvc://claim/path or host:///path",
            )
        ),
    )
    """Where the weights are: hf://org/name, pvc://claim/path or host:///path on the node."""
    revision: str | None = Field(default=None, max_length=128, pattern=r"^[A-Za-z0-9._/-]+$")
    """Branch, tag or commit on the hub; the hub's default branch if absent."""
    token_secret: SecretKey | None = None
    """Access token for the hub."""
    served_name: str | None = Field(default=None, max_length=256, pattern=r"^[A-Za-z0-9._/:-]+$")
    """The model's name in requests; the resource's name if absent."""
    cache: ModelCache | None = None
    """Volume for downloaded weights."""
    shape: Shape | None = None
    """The model's shape, for planning without reading the model; else a short Job reads it."""


class Accelerator(ApiModel):
    """What one pod runs on."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.resource != 'cpu' || (self.count == 1 && !has(self.product))",
                "with resource cpu, leave out product and count",
            ),
        )
    )

    product: str | None = Field(
        default=None, max_length=63, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
    )
    """The node's nvidia.com/gpu.product label; if absent, the one product that the cluster has."""
    count: int = Field(default=1, ge=1, le=64)
    """Accelerators of one pod, over which the model is split by tensor parallelism."""
    resource: str = Field(
        default="nvidia.com/gpu",
        max_length=253,
        pattern=r"^(cpu|[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)$",
    )
    """The pod's resource: nvidia.com/gpu, a MIG profile such as nvidia.com/mig-3g.40gb, or cpu."""
    memory: Memory | None = None
    """Memory of one accelerator, if the product's own is not known; with cpu, of the pod."""
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


class EnvVar(ApiModel):
    """One environment variable of the server."""

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
    "model",
    "served-model-name",
    "host",
    "port",
    "kv-cache-dtype",
    "max-model-len",
    "max-num-seqs",
    "max-num-batched-tokens",
    "gpu-memory-utilization",
    "kv-cache-memory-bytes",
    "tensor-parallel-size",
    "shutdown-timeout",
    "revision",
)
"""Flags of vLLM that the operator sets, each from a field of the resource."""


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
                    f"self.all(arg, !arg.matches('^--({'|'.join(PLANNED_FLAGS)})(=|$)'))",
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
    drain_seconds: int = Field(default=30, ge=0, le=3600)
    """How long a stopping pod may take to finish the requests that it has."""
    engine: Engine = Engine()
    """The server that the pods run."""
    pod_template: OpenObject | None = None
    """Overlay on the pods' template, merged strategically: metadata and spec of a PodTemplate."""
