"""vLLM's `int4_per_token_head`: Triton attention over codes with a scale for each token and head.

A token of a head is ``[K codes, D/2 | K scale, 4 | V codes, D/2 | V scale, 4]`` bytes. Code 2d is
the low half of byte d; the low four bits of a float32 scale are the zero point. Keys and values are
in a randomised Hadamard transform of norm √D.
"""

from functools import cached_property

import torch

from bench.kernels.rival import Rival
from bench.kernels.shape import DEVICE, Shape

# vLLM is looked for where it is needed, so that our own kernels are measured without it.
# ruff: noqa: PLC0415

SEGMENTS = 16
"""Parts of a history, in batches that leave a GPU idle: vLLM's constant."""

LEAST_PROGRAMS = 128
"""Sequences times KV heads from which histories are whole: vLLM's constant."""

SCALE_BYTES = 4


class Int4(Rival):
    """As vLLM's backend TRITON_ATTN calls it."""

    name = "int4_per_token_head"

    def __init__(self, shape: Shape, *, page_tokens: int) -> None:
        super().__init__(shape, page_tokens=page_tokens)
        size = (self.pages, page_tokens, shape.kv_heads, self.token_bytes(shape.head_dim))
        self.cache = torch.randint(0, 256, size, dtype=torch.uint8, device=DEVICE)
        for scale in self._scales:
            zero_point = scale.view(torch.int32) & 15
            scale.uniform_(1.5, 3.0)
            scale.copy_(((scale.view(torch.int32) & -16) | zero_point).view(torch.float32))

    @classmethod
    def refusal(cls, shape: Shape) -> str | None:
        """Its transform of more than 128 channels is fast only where vLLM's library is."""
        from vllm import _custom_ops  # noqa: F401
        from vllm.v1.attention.ops.int4_per_token_head import _hadacore_available

        if DEVICE.type == "cuda" and shape.head_dim > 128 and not _hadacore_available():
            return "vLLM's compiled Hadamard transform is not there: not its real speed"
        return None

    @classmethod
    def token_bytes(cls, head_dim: int) -> int:
        """Codes and scales."""
        return head_dim + 2 * SCALE_BYTES

    @property
    def _scales(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales of keys and of values, float32 ``[pages, page_tokens, H]``."""
        words = self.cache.view(torch.float32)
        return words[..., words.shape[-1] // 2 - 1], words[..., -1]

    @property
    def _halves(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Bytes of keys and of values, scales included."""
        keys, values = self.cache.chunk(2, dim=-1)
        return keys, values

    @cached_property
    def _partial(self) -> dict[str, torch.Tensor]:
        """Scratch for results of parts."""
        rows = (min(self.shape.tokens, LEAST_PROGRAMS), self.shape.query_heads, SEGMENTS)
        return {
            "softmax_segm_output": torch.empty(*rows, self.shape.head_dim, device=DEVICE),
            "softmax_segm_max": torch.empty(rows, device=DEVICE),
            "softmax_segm_expsum": torch.empty(rows, device=DEVICE),
        }

    def attend(self, table: torch.Tensor) -> object:
        """Queries and results are transformed in the call."""
        from vllm.v1.attention.ops.int4_per_token_head import unified_attention_int4

        keys, values = self._halves
        key_scale, value_scale = self._scales
        return unified_attention_int4(
            q=self.query,
            k_cache=keys,
            v_cache=values,
            out=self.out,
            cu_seqlens_q=self.starts,
            max_seqlen_q=self.shape.most_new,
            seqused_k=self.lengths,
            max_seqlen_k=self.shape.longest,
            softmax_scale=self.shape.scale,
            window_size=(-1, -1),
            block_table=table,
            softcap=0.0,
            sinks=None,
            alibi_slopes=None,
            use_alibi_sqrt=False,
            qq_bias=None,
            output_scale=None,
            mm_prefix_range=None,
            k_scale_cache=key_scale,
            v_scale_cache=value_scale,
            seq_threshold_3D=LEAST_PROGRAMS // self.shape.kv_heads,
            num_par_softmax_segments=SEGMENTS,
            **self._partial,
        )

    def write(self, slots: torch.Tensor) -> object:
        """Transform, quantise and pack."""
        from vllm.v1.attention.ops.int4_per_token_head import reshape_and_cache_int4

        keys, values = self._halves
        key_scale, value_scale = self._scales
        return reshape_and_cache_int4(
            self.keys,
            self.values,
            keys,
            values,
            slots,
            k_scale_cache=key_scale,
            v_scale_cache=value_scale,
        )

    def stored(self, pages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes times scales, transformed back."""
        keys, values = (
            self._back(half[pages, ..., :-SCALE_BYTES], scale[pages]).flatten(0, 1)
            for half, scale in zip(self._halves, self._scales, strict=True)
        )
        return keys, values

    def _back(self, packed: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        from vllm.v1.attention.ops.int4_per_token_head import _get_hadamard_matrix, _get_rht_signs

        head_dim = self.shape.head_dim
        codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2).double()
        zero_point = (scale.view(torch.int32) & 15)[..., None]
        rows = (codes - zero_point) * scale[..., None]
        signs = _get_rht_signs(head_dim, 0, DEVICE).double()
        matrix = _get_hadamard_matrix(head_dim, torch.float64, DEVICE)
        back: torch.Tensor = rows @ matrix * signs / head_dim
        return back
