"""What attends prompts in place of our own kernels, if whoever calls them has it."""

from collections.abc import Callable
from typing import Any, Protocol

import torch


class Flash(Protocol):
    """``flash_attn_varlen_func`` of FlashAttention, as vLLM ships it."""

    def __call__(self, *, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> Any:
        """Attend; with the logarithms of the sums of weights if ``return_softmax_lse``."""


Prompts = Callable[[int], Flash | None]
"""The function for so many channels per head, if there is one."""
