"""The pages that the cache asks of vLLM's block manager, and what they add up to.

Every attention layer under a KVarN format asks for two kinds of page:

* the *packed page*, one per 128 tokens: the tiles of the layer's KV heads;
* the *tail page*, a few per sequence: keys and values of its open tiles as the model made them,
  those of several layers in each.

All pages come out of one pool of equal blocks. With, on one rank,

    n   attention layers under the format
    P   bytes of a packed page     kv_heads · TileLayout(format, head_dim).tile_bytes
    T   bytes of an open tile      kvarn.format.layout.tail_bytes(...)

vLLM forms one group of all packed pages and one of the tail pages, which are made as large as fits
the block that the packed ones need anyway (``_get_packed_kv_cache_groups``):

    tails, pages       = max(n·P // T, 1), ceil(n / tails)    kvarn.format.layout.tail_pages(...)
    block_bytes        = max(n·P, tails·T)
    blocks             = memory_bytes // block_bytes              one of them, block 0, stays unused
    blocks_per_request = ceil(max_model_len / 128) + pages
    kv_cache_size_tokens = int(blocks / blocks_per_request · max_model_len)

A start needs ``(blocks_per_request + 1) · block_bytes`` of memory for one request of
``max_model_len`` tokens. A sequence of t tokens holds ``ceil(t / 128) + pages`` blocks, the first
ones shared with other sequences that begin alike.

Example: Llama-3.1-8B in bfloat16 under kvarn_k4v2_g128 has n = 32 layers of 8 KV heads of 128
channels. P = 8 · 13,824 = 110,592 and T = 524,288, so n·P = 3,538,944 bytes take 6 tails:
pages = 6, block_bytes = 3,538,944. 10 GiB are 3,034 blocks; with max_model_len = 8192 a request
takes 64 + 6 blocks and vLLM reports int(3034 / 70 · 8192) = 355,064 tokens.
"""

from dataclasses import dataclass, fields

import torch
from typing_extensions import override
from vllm.config import VllmConfig
from vllm.v1.kv_cache_interface import CircularBufferSpec, FullAttentionSpec

from kvarn.format.layout import TILE_TOKENS, TileLayout


@dataclass(frozen=True, kw_only=True)
class PackedSpec(FullAttentionSpec):
    """A layer's page of tiles: ``[blocks, kv_heads, 128, bytes_per_token]`` of bytes.

    A head's bytes are contiguous; the two inner dimensions say nothing about what lies inside.
    """


def packed_page(spec: FullAttentionSpec, layout: TileLayout) -> PackedSpec:
    """The page of tiles in place of the page that vLLM would make."""
    given = {each.name: getattr(spec, each.name) for each in fields(spec) if each.init}
    return PackedSpec(
        **given | {"state_content_bytes": layout.bytes_per_token, "dtype": torch.uint8}
    )


@dataclass(frozen=True, kw_only=True)
class TailSpec(CircularBufferSpec):
    """A page for open tiles of one sequence: ``[blocks, tails · kv_heads, 128, 2·D]``.

    :class:`kvarn.engine.managers.TailManager` claims them when a sequence is admitted, frees them
    with the sequence, and leaves them out of prefix caching.

    Attributes:
        pages: of a sequence.
    """

    pages: int

    @override
    def max_memory_usage_bytes(self, vllm_config: VllmConfig) -> int:
        """Bytes of a sequence, however long."""
        page_bytes: int = self.page_size_bytes
        return self.pages * page_bytes

    @override
    def max_num_blocks_per_req(self, vllm_config: VllmConfig, max_len: int) -> int:
        """Width of the block table's row, of which the first columns are used.

        The first model runner computes a slot for every token and group, even where the spec says
        that it uses none, and reads past a shorter row.
        """
        return max(-(-max_len // TILE_TOKENS), self.pages)
