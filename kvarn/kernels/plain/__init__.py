"""The operations in plain PyTorch, for CPUs: index tensors made on the host, one product a tile."""

from kvarn.kernels.plain.attention import attend_and_store
from kvarn.kernels.plain.step import prepare

__all__ = ["attend_and_store", "prepare"]
