"""vLLM's managers of blocks, of packed pages and of tail pages.

vLLM publishes the hash of a block when it plans the step that fills it, so that another sequence of
the same step may read what is only stored in it. Where prompts are in the step, tiles are stored
before anything is attended. In a step of single tokens they are stored while attention ends; so a
block that a single token completes is published with the step after.
"""

from collections.abc import Sequence
from typing import Any

from typing_extensions import override
from vllm.v1.core.kv_cache_utils import KVCacheBlock
from vllm.v1.core.single_type_kv_cache_manager import CircularBufferManager, FullAttentionManager
from vllm.v1.kv_cache_interface import CircularBufferSpec, FullAttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry
from vllm.v1.request import Request

from kvarn.engine.specs import PackedSpec, TailSpec


class PackedManager(FullAttentionManager):
    """vLLM's manager of blocks, of packed pages."""

    @override
    def cache_blocks(self, request: Request, num_tokens: int, *args: Any, **options: Any) -> None:
        """Publish the blocks of a request's first tokens.

        `num_tokens` may take in those that the step computes that is being planned;
        ``request.num_computed_tokens`` does not.
        """
        if num_tokens - request.num_computed_tokens == 1:
            num_tokens -= 1
        if self._may_publish(request, num_tokens):
            super().cache_blocks(request, num_tokens, *args, **options)

    def _may_publish(self, request: Request, num_tokens: int) -> bool:
        """Whether there is anything new; vLLM asks twice a step for each request.

        Beside smaller blocks, such as those of windows, parts of a block are published as well.
        """
        whole = self.block_size == self.block_pool.hash_block_size
        published: int = self.num_cached_block.get(request.request_id, 0)
        return not whole or num_tokens // self.block_size > published


class TailManager(CircularBufferManager):
    """vLLM's manager of one block for each request, of as many as its open tiles need."""

    kv_cache_spec: TailSpec

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # Nothing is published, and then vLLM need not ask for it, twice a step for each request.
        self.enable_caching = False

    @override
    def get_num_blocks_to_allocate(
        self,
        request_id: str,
        num_tokens: int,
        new_computed_blocks: Sequence[KVCacheBlock],
        *args: Any,
        **options: Any,
    ) -> int:
        """All of a request's, when it is admitted."""
        return 0 if self.req_to_blocks.get(request_id) else self.kv_cache_spec.pages

    @override
    def _claim_ring_block(
        self, request_id: str, record_for_zeroing: bool = True
    ) -> list[KVCacheBlock]:
        """All of a request's, unless it has them; vLLM clears none of this kind."""
        blocks = self.req_to_blocks[request_id]
        if blocks:
            return []
        claimed: list[KVCacheBlock] = self.block_pool.get_new_blocks(self.kv_cache_spec.pages)
        blocks.extend(claimed)
        return claimed


def register_managers() -> None:
    """Have both kinds of pages managed by theirs, in groups as the pages that they are kinds of.

    vLLM manages a group as its first page asks for; :mod:`kvarn.engine.layers` makes that a packed
    one.
    """
    KVCacheSpecRegistry.register(
        PackedSpec, PackedManager, uniform_type_base_spec=FullAttentionSpec
    )
    KVCacheSpecRegistry.register(TailSpec, TailManager, uniform_type_base_spec=CircularBufferSpec)
