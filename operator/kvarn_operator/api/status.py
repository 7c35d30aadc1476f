"""What is: the status of a ``KVarNDeployment``.

Integers and quantities only, and no time that moves by itself: an equal world gives equal bytes.
"""

from typing import Annotated, Literal

from pydantic import Field

from kvarn_operator.api.base import ApiModel, Bytes, OpenObject, Time

ConditionType = Literal[
    "Ready", "Planned", "MemoryFits", "Progressing", "Degraded", "ScalingActive", "Stalled"
]


class Condition(ApiModel):
    """One observation, as in other Kubernetes APIs."""

    type: str = Field(max_length=64)
    """Ready, Planned, MemoryFits, Progressing, Degraded, ScalingActive or Stalled."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: str = Field(max_length=128)
    """Why, in one word."""
    message: str = Field(max_length=4096)
    """Why, in one sentence."""
    last_transition_time: Time
    """When the status last changed."""
    observed_generation: int = 0
    """The metadata.generation that this is about."""


class MemoryLine(ApiModel):
    """One line of the memory account."""

    name: str = Field(max_length=64)
    """What takes it."""
    bytes: Bytes
    """How much, on each accelerator."""


class Lesson(ApiModel):
    """What starts of one model on one accelerator with one set of flags have taught."""

    key: str = Field(max_length=64)
    """Hash of what it is about: the model's shape, the accelerator and what the servers run."""
    bytes: int = 0
    """What a device held beyond the account; negative if it held less."""
    points: int = 0
    """Hundredths of a device that vLLM must take less."""
    retries: int = 0
    """Starts since the last good one that were corrected after a failure."""
    template: str = Field(default="", max_length=64)
    """Hash of the pod template whose failure was corrected last."""
    failure: str = Field(default="", max_length=512)
    """What that failure said."""


class Plan(ApiModel):
    """What the pods are started with, and why."""

    format: str = Field(max_length=64)
    """Precision of the cache."""
    reason: str = Field(max_length=1024)
    """Why this format."""
    accelerator: str = Field(max_length=64)
    """Product that was planned for."""
    memory: list[MemoryLine] = Field(
        max_length=32, json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    """The memory account of one accelerator."""
    cache_tokens: int
    """Tokens that the cache of one replica holds."""
    max_tokens: int
    """Most tokens of one request."""
    max_sequences: int
    """Most sequences that run at once."""
    max_batched_tokens: int
    """Most tokens that one step computes."""
    lesson: Lesson | None = None
    """What earlier starts taught, as far as it is in the account."""
    basis: str = Field(default="", max_length=64)
    """Hash of what the plan was made from; an edit that leaves it as it is changes no plan."""


class Measured(ApiModel):
    """What vLLM itself reports, beside the plan."""

    cache_tokens: int
    """Tokens that the cache of one replica holds; the fewest of all replicas."""
    cache_bytes: Bytes | None = None
    """Memory of that cache, where vLLM was told."""
    error_permille: int
    """Measured tokens against the planned ones: positive if there are more."""
    most_cache_tokens: int | None = None
    """Tokens of the replica that holds the most, where they differ."""
    replicas: int
    """Replicas that reported."""


class PressureParts(ApiModel):
    """What presses on the fullest replica, each in percent of what it can carry."""

    cache: int
    """KV cache in use, against the target."""
    compute: int
    """Time that computing prompts takes, against its target; those that wait included."""
    running: int
    """Running sequences against the most that may run, while anything waits."""
    waiting: int
    """Running and waiting sequences together, against what runs at once."""
    preemptions: int
    """Preempted requests against the tolerated share."""
    rejections: int
    """Requests turned away."""


class Pressure(ApiModel):
    """How much work there is for the ready replicas, in steps of five percent."""

    percent: int
    """Mean over the replicas; 100 is a full replica."""
    limited_by: Literal["cache", "compute", "running", "waiting", "preemptions", "rejections"]
    """The largest of the parts."""
    parts: PressureParts
    """The parts, of the fullest replica."""
    fresh_replicas: int
    """Ready replicas whose metrics are recent."""
    stale_replicas: int
    """Ready replicas whose metrics are missing, old or unreadable; any one forbids shrinking."""


class InspectionFailure(ApiModel):
    """Why the model's shape is not known."""

    reason: str = Field(max_length=128)
    """In one word."""
    message: str = Field(max_length=4096)
    """In one sentence."""


class InspectedModel(ApiModel):
    """What the inspection of a model found, kept so that it is read once."""

    key: Annotated[str, Field(max_length=64)]
    """Hash of the source and the revision that this is about."""
    image: str = Field(default="", max_length=512)
    """Serving image that read the shape; with another it is read again, and holds meanwhile."""
    shape: OpenObject | None = None
    """The model's shape."""
    failure: InspectionFailure | None = None
    """Why there is none, or why another image could not read it."""


class LastScale(ApiModel):
    """The latest change of size by the built-in autoscaler; its step limits go on from here."""

    time: Time
    """When."""
    from_replicas: int
    """Size before."""
    to_replicas: int
    """Size after."""
    reason: str = Field(max_length=128)
    """Why, in one word."""
    message: str = Field(max_length=1024)
    """Why, in one sentence."""


class Checkpoint(ApiModel):
    """What the autoscaler has learnt, so that a restart of the operator does not lose it."""

    start_seconds: int | None = None
    """How long the last start took, from the change of size until the replicas were ready."""
    token_nanoseconds: int | None = None
    """What computing a token of a prompt costs."""
    token_template: str | None = Field(default=None, max_length=64)
    """Hash of the pod template that it was seen on; with another, it holds until that is seen."""
    reserve_percent: int | None = None
    """What is held back for demand that is not foreseen, in percent of a full replica."""
    reserve_until: Time | None = None
    """Until when that holds."""
    grown_time: Time | None = None
    """When the size grew last."""
    shrunk_time: Time | None = None
    """When it shrank last."""


class Status(ApiModel):
    """What is."""

    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    )
    """Observations; wait for Ready."""
    observed_generation: int | None = None
    """The metadata.generation that this status is about."""
    model: InspectedModel | None = None
    """What is known of the model."""
    plan: Plan | None = None
    """What the pods are started with."""
    measured: Measured | None = None
    """What vLLM reports."""
    lessons: list[Lesson] = Field(
        default_factory=list, max_length=8, json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    """What starts have taught; others of the namespace with the same key plan by it."""
    pressure: Pressure | None = None
    """How much work there is."""
    replicas: int | None = None
    """Pods that exist."""
    ready_replicas: int | None = None
    """Pods that serve."""
    loading_replicas: int | None = None
    """Pods that are about to serve; one that fails or waits for a node is in the conditions."""
    draining_replicas: int | None = None
    """Pods that finish the requests that they have, and then go."""
    desired_replicas: int | None = None
    """Pods that are wanted."""
    selector: str | None = Field(default=None, max_length=1024)
    """Label selector of the pods, for the scale subresource."""
    url: str | None = Field(default=None, max_length=512)
    """Where the OpenAI-compatible API answers inside the cluster; /v1 and /metrics lie under it."""
    last_scale: LastScale | None = None
    """The latest change of size by the built-in autoscaler."""
    checkpoint: Checkpoint | None = None
    """What the autoscaler has learnt; as of the last change of anything else in the status."""
