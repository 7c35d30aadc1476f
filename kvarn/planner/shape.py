"""The model's shape: the few numbers that decide what its weights and its KV cache take."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Self

from kvarn.planner.accelerators import Accelerator
from kvarn.planner.camel import camel, to_camel
from kvarn.planner.errors import ShapeError
from kvarn.planner.layer_kind import LayerKind
from kvarn.planner.mlp import Mlp, dense

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Shape of a language model; `to_dict()` is the resource's `spec.model.shape`.

    Raises:
        ShapeError: a number is missing, not positive, or contradicts another.
    """

    architecture: str
    layers: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    """Width of the MLP that runs on each token; of one expert times experts per token for MoE."""
    vocab_size: int
    weight_bytes: int
    """All weights as vLLM holds them in memory, over all GPUs together."""
    dtype: str
    """What vLLM computes in under `--dtype auto`: bfloat16, float16 or float32."""
    max_position_tokens: int
    tied_embeddings: bool = False
    quantization: str = ""
    """vLLM's name of the weights' quantisation; empty for plain weights."""
    sliding_window_tokens: int = 0
    sliding_layers: int = 0
    """How many of the layers look back only `sliding_window_tokens`."""
    attention_traits: tuple[str, ...] = ()
    """What an attention kernel needs beyond plain softmax: `softcap`, `sinks`, `alibi`, `images`
    whose tokens attend to each other both ways."""
    layer_kinds: tuple[LayerKind, ...] = ()
    """Layers by cache, for a model whose layers differ in more than a window."""
    expert_bytes: int = 0
    """The part of `weight_bytes` that lies in routed experts."""
    experts: int = 0
    """Routed experts in a layer."""
    experts_per_token: int = 0
    """How many of them a token visits."""
    mlps: tuple[Mlp, ...] = ()
    """MLPs by width, for a model that has experts or groups of weights unlike the usual ones."""
    active_parameters: int = 0
    """Weights that a token is multiplied with; 0 for as many as `weight_bytes` has."""
    multimodal: bool = False
    """Whether an encoder for images or sound is loaded beside the language model."""
    encoder_bytes: int = 0
    """Peak of such an encoder for the largest image, which the profile run shows it."""
    pooling: bool = False
    """Whether the model embeds texts, and so has no output layer and samples nothing."""

    def __post_init__(self) -> None:
        for field in _POSITIVE:
            if getattr(self, field) <= 0:
                raise ShapeError(
                    "InvalidShape",
                    f"{camel(field)} is {getattr(self, field)}; give a positive number.",
                )
        if self.attention_heads % self.kv_heads:
            raise ShapeError(
                "InvalidShape",
                f"attentionHeads ({self.attention_heads}) is no multiple of kvHeads"
                f" ({self.kv_heads}); correct one of them.",
            )
        if self.dtype not in DTYPE_BYTES:
            raise ShapeError(
                "InvalidShape", f"dtype is {self.dtype!r}; use one of {', '.join(DTYPE_BYTES)}."
            )
        if sum(kind.layers for kind in self.layer_kinds if kind.kind != "index") > self.layers:
            raise ShapeError(
                "InvalidShape",
                f"layerKinds have more layers than the model ({self.layers}); correct one of them.",
            )
        if not 0 <= self.sliding_layers <= self.layers:
            raise ShapeError(
                "InvalidShape",
                f"slidingLayers ({self.sliding_layers}) must lie between 0 and layers"
                f" ({self.layers}).",
            )

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one number in `dtype`."""
        return DTYPE_BYTES[self.dtype]

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """Layers by the cache that they keep."""
        if self.layer_kinds:
            return self.layer_kinds
        full = LayerKind(
            kind="full", layers=self.layers, kv_heads=self.kv_heads, head_dim=self.head_dim
        )
        if not self.sliding_layers:
            return (full,)
        sliding = replace(
            full,
            kind="window",
            layers=self.sliding_layers,
            window_tokens=self.sliding_window_tokens,
        )
        rest = self.layers - self.sliding_layers
        return (replace(full, layers=rest), sliding) if rest else (sliding,)

    @property
    def is_sparse(self) -> bool:
        """Whether attention chooses the tokens that it reads by an index."""
        return any(kind.kind == "index" for kind in self.kinds)

    @property
    def tiled_kinds(self) -> tuple[LayerKind, ...]:
        """Layers that hold tiles where the cache's format has some: those that attend to all."""
        return tuple(kind for kind in self.kinds if kind.kind == "full")

    def fewest_tiled(self, stages: int) -> int:
        """Layers with tiles in the stage of a pipeline that has fewest.

        They are taken to lie at equal distances, as they do where others have a window.
        """
        tiled = sum(kind.layers for kind in self.tiled_kinds)
        return self.layers // stages * tiled // self.layers

    @property
    def _dealt(self) -> tuple[Mlp, ...]:
        """MLPs as far as their widths are known: of experts, only `mlps` says them."""
        if self.mlps or self.experts:
            return self.mlps
        return (dense(self.intermediate_size, self.quantization),)

    def undivided(self, device: Accelerator) -> str:
        """What the device's `count` cannot share, in words; empty where they can share all.

        Query heads are dealt. So are KV heads, or each is copied to as many devices as any other
        (`QKVParallelLinear` of vLLM). An MLP is dealt by its width, in whole groups of its
        quantisation.
        """
        count = device.count
        if self.attention_heads % count:
            return f"{self.attention_heads} attention heads do not divide among {count} devices"
        for heads in (kind.kv_heads for kind in self.kinds if kind.kv_heads):
            if heads % count and count % heads:
                return f"{heads} KV heads neither divide among {count} devices nor the reverse"
        unfit = (mlp.undivided(count, self.quantization, device.capability) for mlp in self._dealt)
        return next(filter(None, unfit), "")

    def to_dict(self) -> dict[str, Any]:
        """The shape with camelCase keys; fields that hold their default are left out."""
        defaults = {camel(field.name): to_camel(field.default) for field in fields(self)}
        return {key: value for key, value in to_camel(self).items() if value != defaults[key]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The shape from camelCase keys.

        Raises:
            ShapeError: a key is unknown, missing or of the wrong type.
        """
        names = {camel(field.name): field for field in fields(cls)}
        if unknown := sorted(set(data) - set(names)):
            raise ShapeError(
                "InvalidShape",
                f"{unknown[0]} is no field of a shape; known are {', '.join(names)}.",
            )
        values = {
            names[key].name: _typed(key, value, names[key].type)
            for key, value in data.items()
            if value is not None
        }
        required = {key for key, field in names.items() if field.default is MISSING}
        if missing := sorted(key for key in required if data.get(key) is None):
            raise ShapeError("InvalidShape", f"The shape lacks {', '.join(missing)}; add it.")
        return cls(**values)


_POSITIVE = (
    "layers",
    "attention_heads",
    "kv_heads",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "weight_bytes",
    "max_position_tokens",
)


def _typed(key: str, value: Any, kind: object) -> Any:
    """`value` as a field of type `kind` takes it; a sequence becomes a tuple."""
    if kind == tuple[str, ...]:
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ShapeError("InvalidShape", f"{key} is {value!r}; give a list of words.")
    if part := _PARTS.get(kind):
        if isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value):
            return tuple(_part(part, key, item) for item in value)
        raise ShapeError("InvalidShape", f"{key} is {value!r}; give a list of objects.")
    if type(value) is not kind:
        name = {int: "an integer", str: "a word", bool: "true or false"}.get(kind, str(kind))  # type: ignore[call-overload]
        raise ShapeError("InvalidShape", f"{key} is {value!r}; give {name}.")
    return value


_PARTS: dict[object, type[LayerKind | Mlp]] = {
    tuple[LayerKind, ...]: LayerKind,
    tuple[Mlp, ...]: Mlp,
}
"""What the objects of a list are."""


def _part(part: type[LayerKind | Mlp], place: str, data: Mapping[str, Any]) -> LayerKind | Mlp:
    """One object of the list under `place`."""
    names = {camel(field.name): field for field in fields(part)}
    if unknown := sorted(set(data) - set(names)):
        raise ShapeError("InvalidShape", f"{unknown[0]} is no field of {place}; remove it.")
    required = {key for key, field in names.items() if field.default is MISSING}
    if missing := sorted(key for key in required if data.get(key) is None):
        raise ShapeError("InvalidShape", f"{place} lacks {missing[0]}; add it.")
    values = {
        names[key].name: _typed(key, value, names[key].type)
        for key, value in data.items()
        if value is not None
    }
    return part(**values)
