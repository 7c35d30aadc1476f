"""The cached tile: formats, and the one place where offsets and sizes of its bytes are written.

A *tile* holds the keys and the values of 128 consecutive tokens for one KV head of one layer.
vLLM's block of 128 tokens holds one tile per KV head and layer, each contiguous. In a quantised
tile, with ``D`` the head dimension and bit widths ``k`` and ``v``:

======================= =================== ======== ==========================================
field                   shape               type     meaning
======================= =================== ======== ==========================================
``key_codes``           [128, D·k/16]       int16    codes of the rotated keys
``key_token_scale``     [128]               float16  factor of each token
``key_channel_scale``   [D]                 float16  factor of each channel
``key_mean``            [D]                 float16  mean of each channel
``value_codes``         [D·v/16, 128]       int16    codes of the rotated values
``value_token_scale``   [128]               float16  factor of each token
``value_channel_scale`` [D]                 float16  factor of each channel
``value_mean``          [D]                 float16  mean of each channel
======================= =================== ======== ==========================================

For keys and values alike, with codes of b bits,

    row[t, d] = (code[t, d] − (2^b − 1)/2) · token_scale[t] · channel_scale[d] + mean[d]

Codes lie in *planes*: a 16-bit word holds 16/b codes of b bits, and its field p (from the low
bits) belongs to channel p·W + w, where w is the word's index along the channels and W = D·b/16.
A kernel multiplies whole planes with tensor cores and never interleaves. A code of 3 bits lies in
two words: its low two bits as one of 2 bits in the first D/8 words, its high bit as one of 1 bit in
the D/16 words after them.

A raw tile stores ``keys`` [128, D] and ``values`` [128, D] in float32, not rotated; it exists for
tests of everything around the quantiser.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from types import MappingProxyType
from typing import Literal, NamedTuple

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
        key_bits: bits of a key code: 2, 3 or 4; 32 for a raw tile.
        value_bits: bits of a value code: 2, 3 or 4; 32 for a raw tile.
    """

    key_bits: int
    value_bits: int

    @property
    def is_raw(self) -> bool:
        """Whether tiles hold float32 instead of codes."""
        return self.key_bits == 32

    @property
    def name(self) -> str:
        """The value of vLLM's ``--kv-cache-dtype``."""
        bits = "raw" if self.is_raw else f"k{self.key_bits}v{self.value_bits}"
        return f"kvarn_{bits}_g{TILE_TOKENS}"


FORMATS: Mapping[str, TileFormat] = MappingProxyType(
    {
        tile_format.name: tile_format
        for tile_format in (
            TileFormat(key_bits=4, value_bits=2),
            TileFormat(key_bits=3, value_bits=3),
            TileFormat(key_bits=4, value_bits=3),
            TileFormat(key_bits=4, value_bits=4),
            TileFormat(key_bits=32, value_bits=32),
        )
    }
)
"""All formats by name; ``kvarn_raw_g128`` is for tests. What each is worth, and why there are no
others: docs/decisions/0002-tile-format.md."""


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
            *_scales("key", channels),
            ("value_codes", (channels * self.format.value_bits // WORD_BITS, tokens), "int16"),
            *_scales("value", channels),
        )

    @cached_property
    def tile_bytes(self) -> int:
        """Bytes of a tile: its arrays and nothing else."""
        return sum(field.size_bytes for field in self.fields.values())

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes per KV head and layer, keys and values together.

        A whole number for every head dimension, and vLLM sizes pages by it.
        """
        return self.tile_bytes // TILE_TOKENS

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


def _scales(of: str, channels: int) -> tuple[tuple[str, tuple[int, ...], ElementType], ...]:
    return (
        (f"{of}_token_scale", (TILE_TOKENS,), "float16"),
        (f"{of}_channel_scale", (channels,), "float16"),
        (f"{of}_mean", (channels,), "float16"),
    )


def tail_bytes(*, kv_heads: int, head_dim: int, element_bytes: int) -> int:
    """Bytes of one sequence's open tile in one layer, as the model made it.

    Args:
        kv_heads: KV heads on this rank.
        head_dim: channels per head.
        element_bytes: size of the model's activations, 2 for fp16 and bf16.
    """
    return TILE_TOKENS * kv_heads * 2 * head_dim * element_bytes


WINDOW_TOKENS = TILE_TOKENS // 2
"""Tokens of a layer with a sliding window in a page of it, as the model made them."""


class TailPages(NamedTuple):
    """How a sequence's open tiles lie in pages of the pool.

    Attributes:
        tails: layers whose open tiles share a page.
        pages: of a sequence.
    """

    tails: int
    pages: int


def tail_pages(stages: Sequence[int], *, packed_bytes: int, raw_bytes: int) -> TailPages:
    """As many open tiles in a page as fit the block that the tiles of a stage need anyway.

    All stages of a pipeline have pages of one kind, for a sequence has the same blocks in each.
    What vLLM makes of them is told in ``kvarn.engine.specs``.

    Args:
        stages: layers with tiles in each stage; at least one.
        packed_bytes: of one layer's tiles in a block.
        raw_bytes: of one layer's open tile.
    """
    tails = max(min(stages) * packed_bytes // raw_bytes, 1)
    return TailPages(tails, -(-max(stages) // tails))


def fewest_layers(*, packed_bytes: int, raw_bytes: int) -> int:
    """Layers with tiles that each stage of a pipeline needs: a block must hold an open tile.

    Args:
        packed_bytes: of one layer's tiles in a block.
        raw_bytes: of one layer's open tile.
    """
    return -(-raw_bytes // packed_bytes)
