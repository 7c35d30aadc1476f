"""From when on other sequences may find a packed page.

vLLM publishes the hash of a block when it plans the step that fills it, so that another sequence of
the same step may read what is only stored in it. Where prompts are in the step, tiles are stored
before anything is attended. In a step of single tokens they are stored while attention ends; so a
block that a single token completes is published with the step after.
"""

from typing import Any

from typing_extensions import override
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry
from vllm.v1.request import Request

from kvarn.engine.specs import PackedSpec


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
        super().cache_blocks(request, num_tokens, *args, **options)


def register_manager() -> None:
    """Have packed pages managed by it, in groups as any other pages of full attention.

    vLLM manages a group as its first page asks for; :mod:`kvarn.engine.layers` makes that a packed
    one.
    """
    KVCacheSpecRegistry.register(
        PackedSpec, PackedManager, uniform_type_base_spec=FullAttentionSpec
    )
