"""Attention kernels on a GPU: ours against FlashAttention 3, checked before they are timed."""
