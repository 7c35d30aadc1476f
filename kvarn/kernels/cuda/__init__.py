"""Attention of single tokens in CUDA C++, compiled where it runs by the NVRTC that torch brings.

It takes the place of Triton's kernels on the GPUs that have bulk copies, Hopper's and later.
"""

from kvarn.kernels.cuda.decode import attend_single_tokens, make_ready
from kvarn.kernels.cuda.program import OLDEST

__all__ = ["OLDEST", "attend_single_tokens", "make_ready"]
