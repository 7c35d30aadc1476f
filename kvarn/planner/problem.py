"""What is given to the solver, and the batch limits that it may try."""

from collections.abc import Iterator
from dataclasses import dataclass

from kvarn.planner.accelerators import GIB, Accelerator
from kvarn.planner.correction import UNCORRECTED, Correction
from kvarn.planner.formats import CacheFormat
from kvarn.planner.memory import AccountLine, Batch, overhead, scratch
from kvarn.planner.shape import ModelShape
from kvarn.planner.version import EngineVersion
from kvarn.planner.workload import Limits, Workload

FEWEST_BATCHED_TOKENS = 512
GPU_SEQUENCES = 256
"""Sequences at once on a GPU unless the workload wants more: sampling for more costs memory."""

ITEM_TOKENS = {"Gemma3": 260, "Gemma4": 32 * (70 + 2 + 6), "Moondream3": 730, "Bagel": 70**2}
LARGEST_ITEM_TOKENS = 64**2
"""Tokens of the largest image or film, by how the architecture's name begins, and of all others
(`get_mm_max_tokens_per_item`): PaliGemma's has so many at most."""

RAISED_PERCENT = 95
"""Share of a device that vLLM may take where the default is too little: what is left holds the CUDA
context and what an allocator loses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is given: a model, an accelerator, a workload that fits the model, fixed limits.

    Attributes:
        raised: whether vLLM may take more of the device than by default.
    """

    shape: ModelShape
    accelerator: Accelerator
    workload: Workload
    limits: Limits
    version: EngineVersion
    correction: Correction = UNCORRECTED
    raised: bool = False

    @property
    def utilization_percent(self) -> int:
        """Share of the device that vLLM may take; all of a container's memory on the CPU."""
        if self.accelerator.is_cpu:
            return 100
        if self.limits.utilization_percent:
            return self.limits.utilization_percent
        usual = RAISED_PERCENT if self.raised else self.version.utilization_percent
        return max(usual - self.correction.utilization_points, 1)

    @property
    def may_raise(self) -> bool:
        """Whether the share of the device is free to be raised."""
        fixed = self.limits.utilization_percent or self.correction.utilization_points
        return not (self.raised or self.accelerator.is_cpu or fixed)

    @property
    def budget_bytes(self) -> int:
        """What vLLM may take of one device."""
        return self.accelerator.memory_bytes * self.utilization_percent // 100

    @property
    def needed_tokens(self) -> int:
        """Length of request that must fit."""
        return self.limits.max_model_tokens or self.workload.request_tokens

    @property
    def default_batched_tokens(self) -> int:
        """The default of vLLM for this device (`EngineArgs.get_batch_defaults`, API server)."""
        device, usual = self.accelerator, 2048
        if device.is_large:
            usual = 16384 if device.memory_bytes >= 160 * GIB else 8192
        return max(usual, self.item_tokens)

    @property
    def item_tokens(self) -> int:
        """Tokens of an image or film that one step must hold; 0 where steps may take it in pieces.

        They may not where its tokens attend to each other (`compute_mm_encoder_budget`).
        """
        if self.accelerator.is_cpu or "images" not in self.shape.attention_traits:
            return 0
        architecture = self.shape.architecture
        known = (size for name, size in ITEM_TOKENS.items() if architecture.startswith(name))
        return next(known, LARGEST_ITEM_TOKENS)

    @property
    def in_flight_steps(self) -> int:
        """Steps that vLLM schedules at once; it does not look ahead on the CPU."""
        return 1 if self.accelerator.is_cpu else self.version.in_flight_steps

    def held(self, batch: Batch, cache_format: CacheFormat) -> tuple[AccountLine, ...]:
        """What one device holds beside the cache, and what earlier starts taught of it."""
        lines = overhead(self.shape, self.accelerator, batch, self.version)
        if cache_format.tiled and not self.accelerator.is_cpu:
            lines = (*lines, scratch(self.shape, self.accelerator, batch))
        learned = self.correction.size_bytes
        return (*lines, AccountLine("learned", learned, "earlier starts")) if learned else lines

    def recurrent_sequences(self, batch: Batch) -> int:
        """Sequences whose states must have blocks before vLLM captures decoding's CUDA graphs."""
        recurrent = any(kind.kind == "state" for kind in self.shape.kinds)
        captured = batch.graphs and not self.accelerator.is_cpu
        return batch.max_sequences if recurrent and captured else 0

    def batches(self) -> Iterator[Batch]:
        """Batch limits to try, the widest first; vLLM wants a token for each sequence."""
        limits, load = self.limits, self.workload
        most = load.concurrency if self.accelerator.is_cpu else max(load.concurrency, GPU_SEQUENCES)
        sequences = limits.max_sequences or most
        tokens = limits.max_batched_tokens or self.default_batched_tokens
        fewest = limits.max_batched_tokens or max(FEWEST_BATCHED_TOKENS, self.item_tokens)
        if limits.max_sequences:
            tokens, fewest = max(tokens, sequences), max(fewest, sequences)
        while tokens > fewest:
            yield Batch(max_sequences=min(sequences, tokens), max_batched_tokens=tokens)
            tokens //= 2
        yield Batch(max_sequences=min(sequences, fewest), max_batched_tokens=fewest)
