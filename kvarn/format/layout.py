"""The cached tile: formats, and the one place where offsets and sizes of its bytes are written.

A *tile* holds the keys and the values of 128 consecutive tokens for one KV head of one layer.
vLLM's block of 128 tokens holds one tile per KV head and layer, each contiguous. In a quantised
tile, with ``D`` the head dimension and bit widths ``k`` and ``v``:

===================== =================== ======== ============================================
field                 shape               type     meaning
===================== =================== ======== ============================================
``key_codes``         [128, D·k/16]       int16    codes of the rotated, normalised keys
``key_scale``         [D]                 float16  step of each channel
``key_zero``          [D]                 float16  value of code 0 in each channel
``key_token_scale``   [128]               float16  factor of each token
``value_codes``       [D·v/16, 128]       int16    codes of the rotated values
``value_scale``       [128]               float16  step of each token
``value_zero``        [128]               float16  value of code 0 in each token
===================== =================== ======== ============================================

    key[t, d]   = (code[t, d] · key_scale[d] + key_zero[d]) · key_token_scale[t]
    value[t, d] =  code[t, d] · value_scale[t] + value_zero[t]

Codes lie in *planes*: a 16-bit word holds 16/b codes of b bits, and its field p (from the low
bits) belongs to channel p·W + w, where w is the word's index along the channels and W = D·b/16.
A kernel multiplies whole planes with tensor cores and never interleaves.

A raw tile stores ``keys`` [128, D] and ``values`` [128, D] in float32, not rotated; it exists for
tests of everything around the quantiser.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import Literal

TILE_TOKENS = 128
"""Tokens in a tile, and in a vLLM block."""

HEAD_DIMS = (64, 80, 96, 128, 192, 256, 512)
"""The head dimensions that a tile can have."""

WORD_BITS = 16
"""Width of the word that codes are packed into."""

ElementType = Literal["int16", "float16", "float32"]
_ELEMENT_BYTES: Mapping[ElementType, int] = {"int16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class TileFormat:
    """A cache precision.

    Attributes:
        name: the value of vLLM's ``--kv-cache-dtype``.
        key_bits: bits of a key code, a divisor of 16; 32 for a raw tile.
        value_bits: bits of a value code, a divisor of 16; 32 for a raw tile.
        key_range: part of a channel's range that its codes span, about the middle; what lies
            outside is clipped. Measured in docs/decisions/0002-tile-format.md.
        value_range: the same for the range of a token's values.
    """

    name: str
    key_bits: int
    value_bits: int
    key_range: float = 1.0
    value_range: float = 1.0

    @property
    def is_raw(self) -> bool:
        """Whether tiles hold float32 instead of codes."""
        return self.key_bits == 32


FORMATS: Mapping[str, TileFormat] = MappingProxyType(
    {
        tile_format.name: tile_format
        for tile_format in (
            TileFormat(
                "kvarn_k4v2_g128", key_bits=4, value_bits=2, key_range=0.95, value_range=0.7
            ),
            TileFormat(
                "kvarn_k4v4_g128", key_bits=4, value_bits=4, key_range=0.95, value_range=0.95
            ),
            TileFormat("kvarn_raw_g128", key_bits=32, value_bits=32),
        )
    }
)
"""All formats by name; ``kvarn_raw_g128`` is for tests."""


@dataclass(frozen=True)
class Field:
    """One array inside a tile.

    Attributes:
        name: as in the module's table.
        offset_bytes: distance from the first byte of the tile.
        shape: dimensions, outermost first.
        element: type of the elements.
    """

    name: str
    offset_bytes: int
    shape: tuple[int, ...]
    element: ElementType

    @property
    def size_bytes(self) -> int:
        """Bytes that the array takes."""
        return prod(self.shape) * _ELEMENT_BYTES[self.element]

    @property
    def end_bytes(self) -> int:
        """Distance from the first byte of the tile to the first one after the array."""
        return self.offset_bytes + self.size_bytes


@dataclass(frozen=True)
class TileLayout:
    """Where each array of a tile lies.

    Raises:
        ValueError: the head dimension is not one of :data:`HEAD_DIMS`.
    """

    format: TileFormat
    head_dim: int

    def __post_init__(self) -> None:
        if self.head_dim not in HEAD_DIMS:
            known = ", ".join(map(str, HEAD_DIMS))
            raise ValueError(
                f"{self.format.name} has no tile for head dimension {self.head_dim}: "
                f"it knows {known}; use --kv-cache-dtype auto for this model"
            )

    @cached_property
    def fields(self) -> Mapping[str, Field]:
        """The arrays by name, in the order in which they lie, without gaps."""
        laid: dict[str, Field] = {}
        offset_bytes = 0
        for name, shape, element in self._arrays():
            laid[name] = Field(name, offset_bytes, shape, element)
            offset_bytes = laid[name].end_bytes
        return MappingProxyType(laid)

    def _arrays(self) -> tuple[tuple[str, tuple[int, ...], ElementType], ...]:
        tokens, channels = TILE_TOKENS, self.head_dim
        if self.format.is_raw:
            return (
                ("keys", (tokens, channels), "float32"),
                ("values", (tokens, channels), "float32"),
            )
        return (
            ("key_codes", (tokens, channels * self.format.key_bits // WORD_BITS), "int16"),
            ("key_scale", (channels,), "float16"),
            ("key_zero", (channels,), "float16"),
            ("key_token_scale", (tokens,), "float16"),
            ("value_codes", (channels * self.format.value_bits // WORD_BITS, tokens), "int16"),
            ("value_scale", (tokens,), "float16"),
            ("value_zero", (tokens,), "float16"),
        )

    @cached_property
    def content_bytes(self) -> int:
        """Bytes of the arrays alone."""
        return sum(field.size_bytes for field in self.fields.values())

    @cached_property
    def tile_bytes(self) -> int:
        """Bytes of a tile in a page: a multiple of 128, because vLLM sizes pages by the token.

        Only head dimension 80 needs filling up for that (64 bytes).
        """
        return self.bytes_per_token * TILE_TOKENS

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes per KV head and layer, keys and values together."""
        return -(-self.content_bytes // TILE_TOKENS)

    @property
    def bits_per_element(self) -> float:
        """Stored bits per number of the keys and values, metadata included."""
        return 8 * self.tile_bytes / (2 * TILE_TOKENS * self.head_dim)

    @property
    def rotation_block(self) -> int:
        """Order of the Hadamard matrices on the diagonal of the rotation: a power of two.

        The largest one that divides the head dimension, so that 80 = 5·16, 96 = 3·32 and
        192 = 3·64: a rotation must be square and a Hadamard matrix of such an order is cheap.
        """
        return self.head_dim & -self.head_dim


def tail_bytes(*, kv_heads: int, head_dim: int, element_bytes: int) -> int:
    """Bytes of the page that holds one sequence's open tile for one layer, as the model made it.

    Args:
        kv_heads: KV heads on this rank.
        head_dim: channels per head.
        element_bytes: size of the model's activations, 2 for fp16 and bf16.
    """
    return TILE_TOKENS * kv_heads * 2 * head_dim * element_bytes
