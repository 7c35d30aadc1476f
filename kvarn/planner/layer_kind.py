"""Layers whose caches are alike, as they stand in a model's shape."""

from dataclasses import dataclass, fields

from kvarn.planner.camel import camel
from kvarn.planner.errors import ShapeError

KINDS = ("full", "window", "chunk", "latent", "index", "state")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """Layers that keep a cache of one kind.

    Attributes:
        kind: `full`, `window` and `chunk` keep keys and values of all tokens, of the last
            `window_tokens`, of the present chunk; `latent` keeps one vector of `head_dim` a token;
            `index` keeps `token_bytes` a token, whatever the cache's format; `state` keeps
            `state_bytes` a sequence.
        layers: how many.
        kv_heads: KV heads.
        head_dim: numbers of a key.
        value_dim: numbers of a value; 0 for as many as a key has.
        window_tokens: tokens that `window` and `chunk` reach.
        token_bytes: bytes of a token in an index.
        state_bytes: bytes of a sequence in one recurrent layer, over all devices together.

    Raises:
        ShapeError: the kind is unknown, or a number that it needs is missing.
    """

    kind: str
    layers: int
    kv_heads: int = 0
    head_dim: int = 0
    value_dim: int = 0
    window_tokens: int = 0
    token_bytes: int = 0
    state_bytes: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ShapeError(
                "InvalidShape", f"kind is {self.kind!r}; use one of {', '.join(KINDS)}."
            )
        for name in ("layers", *_NEEDS[self.kind]):
            if getattr(self, name) < 1:
                raise ShapeError(
                    "InvalidShape",
                    f"{camel(name)} of the {self.kind} layers is {getattr(self, name)}; give a"
                    " positive number.",
                )
        if negative := [
            f.name for f in fields(self) if f.type is int and getattr(self, f.name) < 0
        ]:
            raise ShapeError("InvalidShape", f"{camel(negative[0])} is negative; give 0 or more.")

    @property
    def token_numbers(self) -> int:
        """Numbers of one token for one KV head."""
        if self.kind == "latent":
            return self.head_dim
        return self.head_dim + (self.value_dim or self.head_dim)


_NEEDS = {
    "full": ("kv_heads", "head_dim"),
    "window": ("kv_heads", "head_dim", "window_tokens"),
    "chunk": ("kv_heads", "head_dim", "window_tokens"),
    "latent": ("head_dim",),
    "index": ("token_bytes",),
    "state": ("state_bytes",),
}
