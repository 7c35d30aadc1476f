"""vLLM's `turboquant_4bit_nc`: Triton attention over rotated keys on a Gaussian's best levels.

A token of a head is ``[K codes, D/2 | K norm, 2 | V codes, D/2 | V scale, 2 | V zero, 2]`` bytes,
the last three float16. Code 2d is the low half of byte d. A key is its norm in the direction of its
levels, in a Hadamard rotation; a value is code times scale plus zero.
"""

from functools import cached_property

import torch

from bench.kernels.rival import Rival
from bench.kernels.shape import DEVICE, Shape
from kvarn.format.hadamard import hadamard

# vLLM is looked for where it is needed, so that our own kernels are measured without it.
# ruff: noqa: PLC0415

SPLITS = 32
"""Parts of every history: the default of vLLM's `tq_max_kv_splits_for_cuda_graph`."""

BITS = 4


class TurboQuant(Rival):
    """As vLLM's backend TURBOQUANT decodes."""

    name = "turboquant_4bit_nc"

    def __init__(self, shape: Shape, *, page_tokens: int) -> None:
        super().__init__(shape, page_tokens=page_tokens)
        size = (self.pages, page_tokens, shape.kv_heads, self.token_bytes(shape.head_dim))
        self.cache = torch.randint(0, 256, size, dtype=torch.uint8, device=DEVICE)
        norm, scale, zero = self._scales
        norm.uniform_(0.7 * shape.head_dim**0.5, 1.3 * shape.head_dim**0.5)
        scale.uniform_(0.2, 0.4)
        zero.uniform_(-3.0, -2.0)

    @classmethod
    def refusal(cls, shape: Shape) -> str | None:
        """Its prompts are FlashAttention's work."""
        if shape.stage == "decode":
            return None
        return "attends prompts by FlashAttention, its history unpacked before"

    @classmethod
    def token_bytes(cls, head_dim: int) -> int:
        """Codes, norm, scale and zero."""
        return head_dim + 6

    @property
    def _scales(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Norms of keys, scales and zeros of values, float16 ``[pages, page_tokens, H]``."""
        halves = self.cache.view(torch.float16)
        return halves[..., self.shape.head_dim // 4], halves[..., -2], halves[..., -1]

    @cached_property
    def _rotation(self) -> torch.Tensor:
        return hadamard(self.shape.head_dim).to(DEVICE)

    @cached_property
    def _levels(self) -> torch.Tensor:
        from vllm.model_executor.layers.quantization.turboquant.centroids import get_centroids

        levels: torch.Tensor = get_centroids(self.shape.head_dim, BITS).to(DEVICE)
        return levels

    @cached_property
    def _scratch(self) -> dict[str, torch.Tensor]:
        """What vLLM takes from its workspace."""
        rows = (self.shape.tokens, self.shape.query_heads)
        return {
            "mid_o_buf": torch.empty(*rows, SPLITS, self.shape.head_dim + 1, device=DEVICE),
            "output_buf": self.out,
            "lse_buf": torch.empty(rows, device=DEVICE),
        }

    def attend(self, table: torch.Tensor) -> object:
        """Queries are rotated in the call."""
        from vllm.v1.attention.ops.triton_turboquant_decode import (
            triton_turboquant_decode_attention,
        )

        return triton_turboquant_decode_attention(
            query=self.query,
            kv_cache=self.cache,
            block_table=table,
            seq_lens=self.lengths,
            Pi=self._rotation,
            centroids=self._levels,
            scale=self.shape.scale,
            mse_bits=BITS,
            key_packed_size=self.shape.head_dim // 2 + 2,
            value_quant_bits=BITS,
            norm_correction=True,
            PiT=self._rotation,
            max_num_kv_splits=SPLITS,
            **self._scratch,
        )

    def write(self, slots: torch.Tensor) -> object:
        """Only prompts are written here, and those are refused."""
        raise NotImplementedError

    def stored(self, pages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys rotated back."""
        width = self.shape.head_dim // 2
        packed = self.cache[pages].flatten(0, 1)
        norm, scale, zero = (each[pages].flatten(0, 1).double() for each in self._scales)
        levels = self._levels.double()[_codes(packed[..., :width]).long()]
        keys = levels / levels.norm(dim=-1, keepdim=True) * norm[..., None]
        codes = _codes(packed[..., width + 2 : 2 * width + 2])
        values = codes * scale[..., None] + zero[..., None]
        return keys @ self._rotation.double(), values


def _codes(packed: torch.Tensor) -> torch.Tensor:
    """Two codes of a byte, the low one first."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)
