"""The pages that the cache asks of vLLM's block manager, and what they add up to.

Every attention layer under a KVarN format asks for two kinds of page:

* the *packed page*, one per 128 tokens: the tiles of the layer's KV heads;
* the *tail page*, one per sequence: keys and values of its open tile as the model made them.

All pages come out of one pool of equal blocks. With, on one rank,

    n   attention layers under the format
    P   bytes of a packed page   kv_heads · TileLayout(format, head_dim).tile_bytes
    T   bytes of a tail page     kvarn.format.layout.tail_bytes(...)

vLLM forms one group of all packed pages and splits the tail pages into as few groups as fit the
block that the packed ones need anyway (``_get_packed_kv_cache_groups``):

    tails_per_block    = max(max(n·P, T) // T, 1)
    tail_groups        = ceil(n / tails_per_block)         kvarn.format.layout.tail_groups(...)
    block_bytes        = max(n·P, ceil(n / tail_groups)·T)
    blocks             = memory_bytes // block_bytes              one of them, block 0, stays unused
    blocks_per_request = ceil(max_model_len / 128) + tail_groups
    kv_cache_size_tokens = int(blocks / blocks_per_request · max_model_len)

A start needs ``(blocks_per_request + 1) · block_bytes`` of memory for one request of
``max_model_len`` tokens. A sequence of t tokens holds ``ceil(t / 128) + tail_groups`` blocks, the
first ones shared with other sequences that begin alike.

Example: Llama-3.1-8B in bfloat16 under kvarn_k4v2_g128 has n = 32 layers of 8 KV heads of 128
channels. P = 8 · 13,824 = 110,592 and T = 524,288, so n·P = 3,538,944 bytes take 6 tails:
tail_groups = 6, block_bytes = 3,538,944. 10 GiB are 3,034 blocks; with max_model_len = 8192 a
request takes 64 + 6 blocks and vLLM reports int(3034 / 70 · 8192) = 355,064 tokens.

When P = T, vLLM sees pages of one size and groups them otherwise: that is the raw format in a
float32 model, which is for tests alone.
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
    """A layer's page for the open tile of one sequence: ``[blocks, kv_heads, 128, 2·D]``.

    The block manager claims it when a sequence is admitted, frees it with the sequence, and leaves
    it out of prefix caching.
    """

    @override
    def max_num_blocks_per_req(self, vllm_config: VllmConfig, max_len: int) -> int:
        """Width of the block table's row, of which only the first column is used.

        The first model runner computes a slot for every token and group, even where the spec says
        that it uses none, and reads past a row of width 1.
        """
        return -(-max_len // TILE_TOKENS)
