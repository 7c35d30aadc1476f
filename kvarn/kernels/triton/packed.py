"""Attention over a sequence's packed tiles: few queries, in the format's rotation.

Codes are the rows and queries the columns of every product, so that no more than N columns are
computed. With codes c, the scales and means of the format, and m the middle of the codes,

    score[t]  = token[t] · (Σ_d c[t,d]·q'[d] − m·Σ_d q'[d]) + Σ_d mean[d]·q[d],  q' = q · channel
    out[d]    = channel[d] · (Σ_t c[t,d]·p'[t] − m·Σ_t p'[t]) + mean[d]·Σ_t p[t],  p' = p · token

so that products are with the codes themselves and everything else is one number a query and tile.
"""

from typing import NamedTuple

import triton
import triton.language as tl

from kvarn.format.layout import TileLayout
from kvarn.kernels.triton.arguments import Pages, Sequences
from kvarn.kernels.triton.planes import (
    code_planes,
    is_full,
    load_codes,
    load_places,
    plane_count,
    plane_factor,
    plane_width,
    plane_words,
    word_places,
)
from kvarn.kernels.triton.scores import LOWEST, as_exponents, score_factor, weigh
from kvarn.kernels.triton.step import TILE

LEAST_ROWS = tl.constexpr(16)
"""Rows of the smallest product. Those of ones, or of one vector, are all the same: what tensor
cores sum need not be summed by threads."""


class History(NamedTuple):
    """Where the packed tiles of a sequence are, for one KV head.

    Attributes:
        tiles: the head's tile in page 0.
        page_stride: bytes from a page to the next.
        pages: the sequence's row of the table.
    """

    tiles: tl.tensor
    page_stride: tl.tensor
    pages: tl.tensor


@triton.constexpr_function
def element(layout: TileLayout, name: str) -> int:
    """Index of a field's first 16-bit element in its tile."""
    return layout.fields[name].offset_bytes // 2


@triton.constexpr_function
def middle(bits: int) -> float:
    """The middle of the codes."""
    return ((1 << bits) - 1) / 2


@triton.jit
def history_of(
    packed: Pages,
    sequences: Sequences,
    table_stride: tl.tensor,
    sequence: tl.tensor,
    head: tl.tensor,
) -> History:
    """The history of a sequence and KV head."""
    return History(
        packed.pointer + head.to(tl.int64) * packed.head_stride,
        packed.page_stride,
        sequences.table + sequence.to(tl.int64) * table_stride,
    )


@triton.jit
def page_at(history: History, index: tl.tensor) -> tl.tensor:
    """The page of a sequence's tile."""
    return tl.load(history.pages + index).to(tl.int64)


@triton.jit
def tile_in(history: History, page: tl.tensor) -> tl.tensor:
    """Pointer to the bytes of the head's tile in a page."""
    return history.tiles + page * history.page_stride


@triton.jit
def _numbers_in(history: History, page: tl.tensor) -> tl.tensor:
    """Pointer to the same as float16."""
    return tile_in(history, page).to(tl.pointer_type(tl.float16))


@triton.jit
def _channel_vectors(
    tile: tl.tensor,
    word: tl.tensor,
    exists: tl.tensor,
    NAME: tl.constexpr,
    LAYOUT: tl.constexpr,
    BITS: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """A field ``[D]`` of a tile in the order of the planes, one vector a plane."""
    vectors = ()
    for plane in tl.static_range(plane_count(BITS)):
        first: tl.tensor = element(LAYOUT, NAME) + plane * (LAYOUT.head_dim // plane_count(BITS))
        vectors = vectors + (load_places(tile + first + word, exists, is_full(LAYOUT, BITS)),)
    return vectors


@triton.jit
def _scores(
    tile: tl.tensor,
    queries: tl.tuple,
    channel: tl.tuple,
    mean: tl.tuple,
    factor: tl.tensor,
    LAYOUT: tl.constexpr,
    ASM: tl.constexpr,
) -> tl.tensor:
    """Scores ``[128, N]`` of a packed tile's keys before any soft cap."""
    BITS: tl.constexpr = LAYOUT.format.key_bits
    WORDS: tl.constexpr = LAYOUT.head_dim * BITS // 16
    word, exists = word_places(LAYOUT, BITS)
    token = tl.arange(0, TILE)
    words, high = load_codes(
        (tile + element(LAYOUT, "key_codes")).to(tl.pointer_type(tl.int16)),
        1,
        token[:, None] * WORDS,
        word[None, :],
        exists[None, :],
        LAYOUT,
        BITS,
    )
    token_scale = tl.load(tile + element(LAYOUT, "key_token_scale") + token).to(tl.float32)
    planes = code_planes(words, high, BITS, ASM)
    WIDTH: tl.constexpr = plane_width(LAYOUT, BITS)
    N: tl.constexpr = queries[0].shape[1]
    ones = tl.full([LEAST_ROWS, WIDTH], 1.0, tl.float16)
    shift = tl.zeros([LEAST_ROWS, N], tl.float32)
    offset = tl.zeros([LEAST_ROWS, N], tl.float32)
    scaled = ()
    for plane in tl.static_range(plane_count(BITS)):
        product = queries[plane] * channel[plane][:, None]
        means = tl.broadcast_to(mean[plane][None, :], [LEAST_ROWS, WIDTH])
        shift = tl.dot(ones, product, shift)
        offset = tl.dot(means, queries[plane], offset)
        scaled = scaled + (product,)
    # Every product is in units of plane 0's factor.
    unit: tl.tensor = plane_factor(BITS, 0)
    start = tl.max(shift, 0) * (-middle(BITS) / unit)
    products = tl.broadcast_to(start[None, :], [TILE, N])
    for plane in tl.static_range(plane_count(BITS)):
        share = scaled[plane] * (plane_factor(BITS, plane) / plane_factor(BITS, 0))
        products = tl.dot(planes[plane], share, products)
    token_factor = token_scale * (factor * unit)
    return products * token_factor[:, None] + (tl.max(offset, 0) * factor)[None, :]


@triton.jit
def _add_values(
    sums: tl.tuple,
    tile: tl.tensor,
    weights: tl.tensor,
    fade: tl.tensor,
    LAYOUT: tl.constexpr,
    ASM: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Fade the sums, one ``[plane_width, N]`` a plane, and add a packed tile's weighted values."""
    BITS: tl.constexpr = LAYOUT.format.value_bits
    word, exists = word_places(LAYOUT, BITS)
    token = tl.arange(0, TILE)
    words, high = load_codes(
        (tile + element(LAYOUT, "value_codes")).to(tl.pointer_type(tl.int16)),
        TILE,
        token[None, :],
        word[:, None],
        exists[:, None],
        LAYOUT,
        BITS,
    )
    channel = _channel_vectors(tile, word, exists, "value_channel_scale", LAYOUT, BITS)
    mean = _channel_vectors(tile, word, exists, "value_mean", LAYOUT, BITS)
    token_scale = tl.load(tile + element(LAYOUT, "value_token_scale") + token).to(tl.float32)
    planes = code_planes(words, high, BITS, ASM)
    scaled = (weights * token_scale[:, None]).to(tl.float16)
    WIDTH: tl.constexpr = plane_width(LAYOUT, BITS)
    ones = tl.full([WIDTH, TILE], 1.0, tl.float16)
    shift = tl.dot(ones, scaled) * -middle(BITS)
    total = tl.sum(weights, 0)
    new = ()
    for plane in tl.static_range(plane_count(BITS)):
        products = shift * (1 / plane_factor(BITS, plane))
        products = tl.dot(planes[plane], scaled, products)
        scale = channel[plane].to(tl.float32) * plane_factor(BITS, plane)
        added = products * scale[:, None] + total[None, :] * mean[plane].to(tl.float32)[:, None]
        new = new + (sums[plane] * fade[None, :] + added,)
    return new


@triton.jit
def attend_packed(
    rotated: tl.tensor,
    exists: tl.tensor,
    history: History,
    begin: tl.tensor,
    end: tl.tensor,
    scale: tl.tensor,
    LAYOUT: tl.constexpr,
    CAP: tl.constexpr,
    ASM: tl.constexpr,
    STAGES: tl.constexpr,
) -> tuple[tuple[tl.tensor, ...], tl.tensor, tl.tensor]:
    """Sums, one ``[plane_width, N]`` a plane, peaks and totals over a sequence's tiles.

    `rotated` ``[N]`` points to queries in group order, of which those that `exists`.
    """
    KEY_BITS: tl.constexpr = LAYOUT.format.key_bits
    VALUE_BITS: tl.constexpr = LAYOUT.format.value_bits
    N: tl.constexpr = rotated.shape[0]
    place = tl.arange(0, plane_width(LAYOUT, KEY_BITS))
    word, held = word_places(LAYOUT, KEY_BITS)
    queries = ()
    for plane in tl.static_range(plane_count(KEY_BITS)):
        channel = plane * plane_words(LAYOUT, KEY_BITS) + place
        mask = exists[None, :] & held[:, None]
        queries = queries + (tl.load(rotated[None, :] + channel[:, None], mask=mask, other=0.0),)
    factor = score_factor(scale, CAP)
    peak = tl.full([N], LOWEST, tl.float32)
    total = tl.zeros([N], tl.float32)
    sums = ()
    for _ in tl.static_range(plane_count(VALUE_BITS)):
        sums = sums + (tl.zeros([plane_width(LAYOUT, VALUE_BITS), N], tl.float32),)

    # A tile's channel vectors are loaded one tile early: little, but on the way to the first
    # product.
    first = _numbers_in(history, page_at(history, begin))
    channel = _channel_vectors(first, word, held, "key_channel_scale", LAYOUT, KEY_BITS)
    mean = _channel_vectors(first, word, held, "key_mean", LAYOUT, KEY_BITS)
    following = page_at(history, tl.minimum(begin + 1, end - 1))
    for index in tl.range(begin, end, num_stages=STAGES):
        tile = _numbers_in(history, page_at(history, index))
        ahead = _numbers_in(history, following)
        products = _scores(tile, queries, channel, mean, factor, LAYOUT, ASM)
        channel = _channel_vectors(ahead, word, held, "key_channel_scale", LAYOUT, KEY_BITS)
        mean = _channel_vectors(ahead, word, held, "key_mean", LAYOUT, KEY_BITS)
        following = page_at(history, tl.minimum(index + 2, end - 1))
        weights, fade, peak, total = weigh(as_exponents(products, CAP), peak, total, 0)
        sums = _add_values(sums, tile, weights, fade, LAYOUT, ASM)
    return sums, peak, total
