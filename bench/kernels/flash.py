"""FlashAttention 3 as vLLM ships it, on a cache in bfloat16 or fp8."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from itertools import product
from typing import Any, ClassVar

import torch

from bench.kernels.rival import Rival
from bench.kernels.shape import DEVICE, Shape

# vLLM is looked for where it is needed, so that our own kernels are measured without it.
# ruff: noqa: PLC0415


class Flash(Rival):
    """Pages of keys and pages of values."""

    name = "bf16"
    options: ClassVar[Sequence[Mapping[str, Any]]] = [
        {"page_tokens": page_tokens, "planned": planned}
        for page_tokens, planned in product((16, 128), (False, True))
    ]
    dtype: ClassVar[torch.dtype] = torch.bfloat16

    def __init__(self, shape: Shape, *, page_tokens: int, planned: bool) -> None:
        super().__init__(shape, page_tokens=page_tokens)
        size = (self.pages, page_tokens, shape.kv_heads, shape.head_dim)
        self.key_cache, self.value_cache = (_random(size, self.dtype) for _ in "kv")
        self.query = self.query.to(self.dtype)
        self.plan = self._plan() if planned else None

    @classmethod
    def refusal(cls, shape: Shape) -> str | None:
        """It has kernels up to 256 channels."""
        return None if shape.head_dim <= 256 else "no kernel for more than 256 channels"

    @classmethod
    def token_bytes(cls, head_dim: int) -> int:
        """Nothing but the numbers."""
        return 2 * head_dim * cls.dtype.itemsize

    def _plan(self) -> Any:
        from vllm.vllm_flash_attn import get_scheduler_metadata

        return get_scheduler_metadata(
            batch_size=len(self.shape.lengths),
            max_seqlen_q=self.shape.most_new,
            max_seqlen_k=self.shape.longest,
            num_heads_q=self.shape.query_heads,
            num_heads_kv=self.shape.kv_heads,
            headdim=self.shape.head_dim,
            cache_seqlens=self.lengths,
            qkv_dtype=self.dtype,
            cu_seqlens_q=self.starts,
            page_size=self.page_tokens,
            causal=True,
        )

    @cached_property
    def _factors(self) -> torch.Tensor | None:
        """Scales of fp8 numbers, for each sequence and head."""
        if self.dtype.itemsize == 2:
            return None
        return torch.ones(len(self.shape.lengths), self.shape.kv_heads, device=DEVICE)

    def attend(self, table: torch.Tensor) -> object:
        """In one call, with the plan if there is one."""
        from vllm.vllm_flash_attn import flash_attn_varlen_func

        return flash_attn_varlen_func(
            q=self.query,
            k=self.key_cache,
            v=self.value_cache,
            out=self.out,
            cu_seqlens_q=self.starts,
            max_seqlen_q=self.shape.most_new,
            seqused_k=self.lengths,
            max_seqlen_k=self.shape.longest,
            softmax_scale=self.shape.scale,
            causal=True,
            block_table=table,
            fa_version=3,
            scheduler_metadata=self.plan,
            q_descale=self._factors,
            k_descale=self._factors,
            v_descale=self._factors,
        )

    @cached_property
    def _one(self) -> torch.Tensor:
        return torch.ones(1, device=DEVICE)

    def write(self, slots: torch.Tensor) -> object:
        """By vLLM's compiled kernel, or by its Triton one where the library is missing."""
        kind, caches = "auto", [self.key_cache, self.value_cache]
        if self.dtype.itemsize == 1:
            kind, caches = "fp8", [cache.view(torch.uint8) for cache in caches]
        return _writer()(self.keys, self.values, *caches, slots, kind, self._one, self._one)

    def stored(self, pages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As they are."""
        keys, values = (
            cache.view(torch.uint8)[pages].view(self.dtype).flatten(0, 1)
            for cache in (self.key_cache, self.value_cache)
        )
        return keys, values


class FlashFp8(Flash):
    """Numbers of eight bits, the queries as well."""

    name = "fp8"
    dtype = torch.float8_e4m3fn


@cache
def _writer() -> Callable[..., object]:
    from vllm import _custom_ops
    from vllm.v1.attention.ops import triton_reshape_and_cache_flash as in_triton

    compiled = hasattr(torch.ops._C_cache_ops, "reshape_and_cache_flash")
    writer: Callable[..., object] = (
        _custom_ops.reshape_and_cache_flash
        if compiled
        else in_triton.triton_reshape_and_cache_flash
    )
    return writer


def _random(size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Random numbers, made in pieces that do not double the memory."""
    numbers = torch.empty(size, dtype=dtype, device=DEVICE)
    for piece in numbers.chunk(64):
        piece.copy_(torch.randn(piece.shape, dtype=torch.bfloat16, device=DEVICE))
    return numbers
