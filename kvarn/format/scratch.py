"""Memory on a device between the kernels of one layer, which all layers share.

It lies one after the other: results of the parts of histories, the queries in the rotation of the
tiles, and keys and values of prompts as the model made them.
"""

from kvarn.format.layout import TILE_TOKENS, WORD_BITS

PARTIAL_BYTES = 64 << 20
"""Bytes for results of parts; more segments than fit are attended in several launches."""

DENSE_BYTES = 128 << 20
"""Bytes for keys and values as the model made them; histories that do not fit are attended in
pieces, and a piece of 32,768 tokens of 8 heads of 128 channels costs little more than its work."""

DENSE_CHANNELS = 256
"""Most channels per head of a model whose prompts a library attends."""


def scratch_bytes(
    *, tokens: int, query_heads: int, kv_heads: int, head_dim: int, element_bytes: int, dense: bool
) -> int:
    """All of it.

    Args:
        tokens: most new tokens of a step.
        query_heads: of a layer on this rank.
        kv_heads: likewise.
        head_dim: channels per head.
        element_bytes: size of the numbers that attention computes with.
        dense: whether prompts are attended by a library, which needs keys and values as they were.
    """
    queries = tokens * query_heads * padded_channels(head_dim) * element_bytes
    sizes = {"kv_heads": kv_heads, "head_dim": head_dim, "element_bytes": element_bytes}
    pages = dense_pages(tokens=tokens, **sizes) if dense else 0
    return PARTIAL_BYTES + queries + pages * page_bytes(**sizes)


def padded_channels(head_dim: int) -> int:
    """Places for channels: those of a word's fields, filled up to a power of two."""
    return WORD_BITS << (head_dim // WORD_BITS - 1).bit_length()


def dense_pages(*, tokens: int, kv_heads: int, head_dim: int, element_bytes: int) -> int:
    """Pages for keys and values of prompts.

    As many as fit, and at least those of a step's own tiles and one more: so many tokens in a row
    lie in no more than ``(tokens + 126) // 128 + 1`` tiles.
    """
    size = page_bytes(kv_heads=kv_heads, head_dim=head_dim, element_bytes=element_bytes)
    own = (tokens + TILE_TOKENS - 2) // TILE_TOKENS + 1
    return max(DENSE_BYTES // size, own + 1)


def page_bytes(*, kv_heads: int, head_dim: int, element_bytes: int) -> int:
    """Bytes of the keys and values of a tile's tokens."""
    return 2 * TILE_TOKENS * kv_heads * head_dim * element_bytes
