"""The rivals: FlashAttention 3 of the installed vLLM, on a cache in bfloat16 or fp8."""

from collections.abc import Callable

import torch

from bench.kernels.clock import microseconds
from bench.kernels.decode import Shape

PAGES_TOKENS = (16, 128)
"""Page sizes that are tried; the best counts."""


def best(shape: Shape, dtype: torch.dtype) -> float:
    """Microseconds of a decode step, with the better page size and scheduling."""
    return min(
        microseconds(_calls(shape, dtype, page_tokens, planned=planned))
        for page_tokens in PAGES_TOKENS
        for planned in (False, True)
    )


def _calls(
    shape: Shape, dtype: torch.dtype, page_tokens: int, *, planned: bool
) -> list[Callable[[], object]]:
    # vLLM is looked for here, so that our own kernels are measured where it is missing.
    from vllm.vllm_flash_attn import (  # noqa: PLC0415
        flash_attn_varlen_func,
        get_scheduler_metadata,
    )

    sequences, longest = len(shape.lengths), max(shape.lengths)
    query_heads = shape.kv_heads * shape.group
    token_bytes = 2 * shape.kv_heads * shape.head_dim * dtype.itemsize
    tables = shape.tables(page_tokens, token_bytes)
    pages = 1 + max(int(table.max()) for table in tables)
    size = (pages, page_tokens, shape.kv_heads, shape.head_dim)
    keys, values = (_random(size, dtype) for _ in range(2))
    query = shape.rows(query_heads).to(dtype)
    starts = torch.arange(sequences + 1, dtype=torch.int32, device="cuda")
    lengths = torch.tensor(shape.lengths, dtype=torch.int32, device="cuda")
    factor = torch.ones(sequences, shape.kv_heads, device="cuda") if dtype.itemsize == 1 else None
    metadata = None
    if planned:
        metadata = get_scheduler_metadata(
            batch_size=sequences,
            max_seqlen_q=1,
            max_seqlen_k=longest,
            num_heads_q=query_heads,
            num_heads_kv=shape.kv_heads,
            headdim=shape.head_dim,
            cache_seqlens=lengths,
            qkv_dtype=dtype,
            cu_seqlens_q=starts,
            page_size=page_tokens,
            causal=True,
        )
    out = torch.empty_like(query, dtype=torch.bfloat16)

    def call(table: torch.Tensor) -> Callable[[], object]:
        return lambda: flash_attn_varlen_func(
            q=query,
            k=keys,
            v=values,
            out=out,
            cu_seqlens_q=starts,
            max_seqlen_q=1,
            seqused_k=lengths,
            max_seqlen_k=longest,
            softmax_scale=shape.scale,
            causal=True,
            block_table=table,
            fa_version=3,
            scheduler_metadata=metadata,
            q_descale=factor,
            k_descale=factor,
            v_descale=factor,
        )

    return [call(table) for table in tables]


def _random(size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Random numbers, made in pieces that do not double the memory."""
    numbers = torch.empty(size, dtype=dtype, device="cuda")
    for piece in numbers.chunk(64):
        piece.copy_(torch.randn(piece.shape, dtype=torch.bfloat16, device="cuda"))
    return numbers
