"""Codes as numbers that tensor cores take, without arithmetic.

A field of up to ten low bits of a 16-bit word, with all other bits cleared, *is* a float16: the
subnormal number code · 2^-24, times a power of two for the field's place. Tensor cores multiply
subnormals exactly, so one AND unpacks two codes, and the factor goes into a scale elsewhere.

Channels are in the group order of :mod:`kvarn.kernels.triton.rotate`, where plane p of the words is
the slab of channels that begins at p·B·U, for B the bits of a word's field: 2 for codes of 3 bits,
whose high bits come from the words of their own. A plane is filled up to 16 words, the least that
a product takes.
"""

import triton
import triton.language as tl

from kvarn.format.layout import WORD_BITS, TileLayout
from kvarn.kernels.triton.rotate import padded_channels

SUBNORMAL = 2.0**24
"""What a code is divided by when its bits are taken for a float16."""


@triton.constexpr_function
def field_bits(bits: int) -> int:
    """Bits of a field in the words that hold the codes, or their low bits."""
    return 2 if bits == 3 else bits


@triton.constexpr_function
def plane_count(bits: int) -> int:
    """Planes of codes of so many bits."""
    return WORD_BITS // field_bits(bits)


@triton.constexpr_function
def plane_words(layout: TileLayout, bits: int) -> int:
    """Words of a plane in group order."""
    return padded_channels(layout) * field_bits(bits) // WORD_BITS


@triton.constexpr_function
def plane_width(layout: TileLayout, bits: int) -> int:
    """Words of a plane filled up for a product."""
    return max(16, plane_words(layout, bits))


@triton.constexpr_function
def is_full(layout: TileLayout, bits: int) -> bool:
    """Whether every place of a plane is a channel's."""
    return plane_width(layout, bits) * plane_count(bits) == layout.head_dim


@triton.constexpr_function
def is_direct(bits: int, plane: int) -> bool:
    """Whether a plane's field lies low enough in its word for a subnormal number."""
    return plane < {2: 5, 3: 4, 4: 2}[bits]


@triton.constexpr_function
def field_place(bits: int, plane: int) -> int:
    """Where a plane's field lies once :func:`code_planes` has shifted the word."""
    direct = {2: 5, 3: 4, 4: 2}[bits]
    return field_bits(bits) * (plane % direct)


@triton.constexpr_function
def plane_factor(bits: int, plane: int) -> float:
    """What a plane's numbers are multiplied with to be the codes."""
    return SUBNORMAL / (1 << field_place(bits, plane))


@triton.jit
def word_places(LAYOUT: tl.constexpr, BITS: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Index of the word at each place of a plane, and whether there is one; ``[plane_width]``."""
    UNITS: tl.constexpr = LAYOUT.head_dim // 16
    FILLED: tl.constexpr = plane_words(LAYOUT, BITS) // field_bits(BITS)
    place = tl.arange(0, plane_width(LAYOUT, BITS))
    if UNITS == FILLED:
        return place, place < plane_words(LAYOUT, BITS)
    unit = place % FILLED
    exists = (unit < UNITS) & (place < plane_words(LAYOUT, BITS))
    return place // FILLED * UNITS + unit, exists


@triton.jit
def load_places(pointers: tl.tensor, exists: tl.tensor, FULL: tl.constexpr) -> tl.tensor:
    """Load what exists, and zeros elsewhere; without a mask where a plane is full."""
    if FULL:
        return tl.load(pointers)
    return tl.load(pointers, mask=exists, other=0)


@triton.jit
def load_codes(
    codes: tl.tensor,
    word_stride: tl.constexpr,
    other: tl.tensor,
    word: tl.tensor,
    exists: tl.tensor,
    LAYOUT: tl.constexpr,
    BITS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Words of codes, and those of their high bits (the same again where there are none).

    `codes` points to the field, whose next word of a token is `word_stride` away. `word` and
    `exists` are those of :func:`word_places` with an axis for the tokens, `other` the offsets along
    that axis.
    """
    UNITS: tl.constexpr = LAYOUT.head_dim // 16
    words = load_places(codes + word * word_stride + other, exists, is_full(LAYOUT, BITS))
    if BITS == 3:
        group = (word >= UNITS).to(tl.int16)
        place = 2 * UNITS + word % UNITS
        high = load_places(codes + place * word_stride + other, exists, is_full(LAYOUT, BITS))
        return words, high >> group
    return words, words


@triton.constexpr_function
def _assembly(operation: str, operand: int) -> str:
    return f"{operation}.b32 $0, $1, {operand};"


@triton.jit
def _on_pairs(words: tl.tensor, OPERATION: tl.constexpr, OPERAND: tl.constexpr) -> tl.tensor:
    """One instruction on two words. What a shift moves from one to the other is masked later."""
    assembly: tl.constexpr = _assembly(OPERATION, OPERAND)
    return tl.inline_asm_elementwise(
        assembly, "=r,r", [words], dtype=tl.int16, is_pure=True, pack=2
    )


@triton.jit
def _right(words: tl.tensor, BY: tl.constexpr, ASM: tl.constexpr) -> tl.tensor:
    if ASM:
        return _on_pairs(words, "shr", BY)
    return words >> BY


@triton.jit
def _masked(words: tl.tensor, MASK: tl.constexpr, ASM: tl.constexpr) -> tl.tensor:
    if ASM:
        return _on_pairs(words, "and", MASK << 16 | MASK)
    return words & MASK


@triton.jit
def code_planes(
    words: tl.tensor, high: tl.tensor, BITS: tl.constexpr, ASM: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """All planes of :func:`load_codes` as float16, still to be multiplied by `plane_factor`.

    With ASM, one instruction unpacks two words; the interpreter knows no assembly.
    """
    LOW: tl.constexpr = (1 << field_bits(BITS)) - 1
    later = _right(words, 10 if BITS == 2 else 8, ASM)
    if BITS == 3:
        # The high bit of plane p is bit 2p of its word: it belongs two places further up.
        high_later = _right(high, 6, ASM)
        high = _on_pairs(high, "shl", 2) if ASM else high << 2
    planes = ()
    for plane in tl.static_range(plane_count(BITS)):
        field = _masked(
            words if is_direct(BITS, plane) else later, LOW << field_place(BITS, plane), ASM
        )
        if BITS == 3:
            field |= _masked(
                high if is_direct(BITS, plane) else high_later, 4 << field_place(BITS, plane), ASM
            )
        planes = planes + (field.to(tl.float16, bitcast=True),)
    return planes
