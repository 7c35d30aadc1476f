"""The library that attends prompts: FlashAttention, or PyTorch in its place."""

from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch

from kvarn.kernels.library import Flash
from tests.kernels.steps import DEVICE


def stand_in(
    *,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    max_seqlen_q: int,
    seqused_k: torch.Tensor,
    max_seqlen_k: int,
    block_table: torch.Tensor,
    softmax_scale: float,
    softcap: float,
    causal: bool,
    num_splits: int,
    return_softmax_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``flash_attn_varlen_func`` over pages, as far as it is used here.

    Rows without keys get zeros. Whatever a page holds is multiplied with some weight.
    """
    exponents = torch.full((q.shape[1], q.shape[0]), torch.nan, device=q.device)
    bounds = cu_seqlens_q.tolist()
    pages, group = k.shape[1], q.shape[1] // k.shape[2]
    for index, (begin, end) in enumerate(pairwise(bounds)):
        length = int(seqused_k[index])
        assert end - begin <= max_seqlen_q
        assert length <= max_seqlen_k
        used = block_table[index, : -(-length // pages)].long()
        keys, values = (
            rows[used].flatten(0, 1).float().repeat_interleave(group, dim=1) for rows in (k, v)
        )
        scores = torch.einsum("nhd,thd->hnt", q[begin:end].float(), keys) * softmax_scale
        if softcap:
            scores = softcap * (scores / softcap).tanh()
        position = torch.arange(length - (end - begin), length, device=q.device)[:, None]
        place = torch.arange(len(keys), device=q.device)
        hidden = (place >= length) | ((place > position) & causal)
        scores = scores.masked_fill(hidden, -torch.inf)
        weights = scores.softmax(-1).nan_to_num()
        out[begin:end] = torch.einsum("hnt,thd->nhd", weights, values).to(out.dtype)
        exponents[:, begin:end] = scores.logsumexp(-1) if length else torch.inf
    return out, exponents


def library(head_dim: int) -> Flash | None:
    """The function for so many channels."""
    if DEVICE.type == "cuda" and find_spec("vllm"):
        from kvarn.engine.flash import flash_attention

        return flash_attention(head_dim)
    flash: Any = stand_in
    return flash
