"""The operations in Triton, for GPUs; without one, in Triton's interpreter.

``prepare`` cuts a batch into segments, on the device and without waiting for it.
``attend_and_store`` stores the tiles that the step completes, attends, and writes the tails:
segments of few tokens by :mod:`~kvarn.kernels.triton.decode`, longer ones by a library
(:mod:`~kvarn.kernels.triton.flash`) or, where it cannot, by :mod:`~kvarn.kernels.triton.prefill`.
``rehearse`` compiles the kernels of a layer before its first step.
"""

from kvarn.kernels.triton.attention import attend_and_store
from kvarn.kernels.triton.memory import scratch, scratch_bytes
from kvarn.kernels.triton.rehearsal import Layer, rehearse
from kvarn.kernels.triton.rotate import INTERPRETED
from kvarn.kernels.triton.step import prepare

__all__ = [
    "INTERPRETED",
    "Layer",
    "attend_and_store",
    "prepare",
    "rehearse",
    "scratch",
    "scratch_bytes",
]
