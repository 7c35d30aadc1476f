"""The operations on cached pages that the engine calls.

There are two implementations: :mod:`kvarn.kernels.plain` in PyTorch, for CPUs, and
:mod:`kvarn.kernels.triton` for GPUs. Each has ``prepare(batch)``, once a step, and
``attend_and_store(prepared, …)``, once a layer. The order in both is a contract for the batch:
complete tiles are stored, then queries attend, then tails are written. vLLM publishes a block in
the step that fills it, so another sequence of the same batch may read a tile that this one
completes; and queries read the tails as the step found them.
"""
