"""Attention of single tokens, and the store, in CUDA C++.

The NVRTC that torch brings compiles them where they run. They take the place of Triton's kernels on
GPUs that have bulk copies, Hopper's and later.
"""

from kvarn.kernels.cuda.decode import attend_single_tokens
from kvarn.kernels.cuda.program import OLDEST, is_known
from kvarn.kernels.cuda.store import store_tiles

__all__ = [
    "OLDEST",
    "attend_single_tokens",
    "is_known",
    "store_tiles",
]
