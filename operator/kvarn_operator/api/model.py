"""The part of the spec that says which model is served, and where its weights are."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from kvarn_operator.api.base import ApiModel, Memory, Name, rule, rules


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


class Mlp(ApiModel):
    """MLPs that accelerators share by their width."""

    kind: Literal["dense", "shared", "routed"]
    """Whether they are experts, and which: see the planner's Mlp."""
    width: int = Field(ge=1)
    """Width of one; of all shared experts of a layer together."""
    group: int = Field(default=0, ge=0)
    """Numbers of a row that share a scale and stay on one accelerator."""


class Shape(ApiModel):
    """The numbers that decide what the weights and the KV cache of a model take."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.attentionHeads % self.kvHeads == 0",
                "attentionHeads must be a multiple of kvHeads",
            ),
            rule(
                "self.slidingLayers <= self.layers",
                "slidingLayers must not be more than layers",
            ),
            rule(
                "!has(self.layerKinds) || self.layerKinds.filter(each, each.kind != 'index')"
                ".map(each, each.layers).sum() <= self.layers",
                "layerKinds must not have more layers than the model",
            ),
        )
    )

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
    """What attention needs beyond plain softmax: softcap, sinks, alibi, images."""
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
    mlps: list[Mlp] = Field(
        default_factory=list, max_length=16, json_schema_extra={"x-kubernetes-list-type": "atomic"}
    )
    """MLPs by width, for a model that has experts."""
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
