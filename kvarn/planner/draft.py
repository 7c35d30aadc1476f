"""One format tried: the limits and the account that it gives, or the reason why it gives none."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kvarn.planner.accelerators import GIB, Accelerator
from kvarn.planner.cache import CacheLayout, cache_layout, ceil_div
from kvarn.planner.formats import CacheFormat
from kvarn.planner.memory import AccountLine, Batch, overhead
from kvarn.planner.shape import ModelShape
from kvarn.planner.version import EngineVersion
from kvarn.planner.workload import Limits, Workload

UNSUPPORTED = "UnsupportedFormat"
FEWEST_BATCHED_TOKENS = 512
GPU_SEQUENCES = 256
"""Sequences at once on a GPU unless the workload wants more: sampling for more costs memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is given: a model, an accelerator, a workload that fits the model, fixed limits."""

    shape: ModelShape
    accelerator: Accelerator
    workload: Workload
    limits: Limits
    version: EngineVersion

    @property
    def utilization_percent(self) -> int:
        """Share of the device that vLLM may take; all of a container's memory on the CPU."""
        if self.accelerator.is_cpu:
            return 100
        return self.limits.utilization_percent or self.version.utilization_percent

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
        gpu = self.accelerator
        if gpu.memory_bytes >= 160 * GIB:
            return 16384
        return 8192 if gpu.memory_bytes >= 70 * GIB and "A100" not in gpu.product else 2048

    def batches(self) -> Iterator[Batch]:
        """Batch limits to try, the widest first."""
        wanted = self.workload.concurrency
        most = wanted if self.accelerator.is_cpu else max(wanted, GPU_SEQUENCES)
        sequences = self.limits.max_sequences or most
        tokens = self.limits.max_batched_tokens or self.default_batched_tokens
        yield Batch(max_sequences=sequences, max_batched_tokens=tokens)
        while not self.limits.max_batched_tokens and tokens > FEWEST_BATCHED_TOKENS:
            tokens //= 2
            yield Batch(max_sequences=min(sequences, tokens), max_batched_tokens=tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Limits with which one format fits.

    Attributes:
        lines: what one device holds beside the cache.
        cache_bytes: the cache of one device.
        requests: requests of the workload that the cache holds at once.
    """

    format: CacheFormat
    layout: CacheLayout
    batch: Batch
    lines: tuple[AccountLine, ...]
    cache_bytes: int
    max_model_tokens: int
    request_blocks: int
    requests: int

    @property
    def cache_blocks(self) -> int:
        """Blocks in the pool."""
        return self.layout.blocks(self.cache_bytes)

    @property
    def cache_tokens(self) -> int:
        """The `kv_cache_size_tokens` of vLLM, with its order of operations in floating point."""
        return int(self.cache_blocks / self.request_blocks * self.max_model_tokens)


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why one format gives no draft.

    Attributes:
        reason: as in `PlanError`.
        message: the numbers, without the remedy and without a full stop.
        longest_tokens: length of request that would fit; 0 where none does.
    """

    reason: str
    message: str
    longest_tokens: int = 0


def attempt(problem: Problem, cache_format: CacheFormat) -> Draft | Misfit:
    """The widest batch limits with which `cache_format` holds a request of the needed length."""
    if refusal := cache_format.refusal(problem.shape, problem.accelerator.is_cpu):
        return Misfit(UNSUPPORTED, refusal)
    layout = cache_layout(problem.shape, problem.accelerator, cache_format)
    for batch in problem.batches():
        if draft := _fit(problem, cache_format, layout, batch):
            return draft
    return _misfit(problem, layout, batch)


def _fit(
    problem: Problem, cache_format: CacheFormat, layout: CacheLayout, batch: Batch
) -> Draft | None:
    """The draft with as many sequences as the cache holds requests, `batch` allowing.

    Fewer sequences leave more memory to the cache, so the number is searched for.
    """
    if problem.limits.max_sequences:
        return _draft(problem, cache_format, layout, batch)
    low, high = 1, batch.max_sequences
    while low < high:
        middle = ceil_div(low + high, 2)
        draft = _draft(problem, cache_format, layout, replace(batch, max_sequences=middle))
        low, high = (middle, high) if draft and draft.requests >= middle else (low, middle - 1)
    return _draft(problem, cache_format, layout, replace(batch, max_sequences=low))


def _draft(
    problem: Problem, cache_format: CacheFormat, layout: CacheLayout, batch: Batch
) -> Draft | None:
    """The draft for exactly this batch; None where the needed length does not fit."""
    lines = overhead(problem.shape, problem.accelerator, batch, problem.version)
    cache_bytes = problem.budget_bytes - sum(line.size_bytes for line in lines)
    in_flight = _in_flight_tokens(problem, batch)
    wanted = problem.limits.max_model_tokens or problem.shape.max_position_tokens
    longest = layout.longest_tokens(cache_bytes, at_most=wanted, in_flight_tokens=in_flight)
    if longest < problem.needed_tokens:
        return None
    request_blocks = layout.request_blocks(longest, in_flight_tokens=in_flight)
    if problem.accelerator.is_cpu:
        useful = 1 + batch.max_sequences * request_blocks
        cache_bytes = min(cache_bytes, useful * layout.block_bytes)
    each = layout.request_blocks(problem.workload.request_tokens, in_flight_tokens=in_flight)
    return Draft(
        format=cache_format,
        layout=layout,
        batch=batch,
        lines=lines,
        cache_bytes=cache_bytes,
        max_model_tokens=longest,
        request_blocks=request_blocks,
        requests=(layout.blocks(cache_bytes) - 1) // each,
    )


def _in_flight_tokens(problem: Problem, batch: Batch) -> int:
    steps = 1 if problem.accelerator.is_cpu else problem.version.in_flight_steps
    return steps * batch.max_batched_tokens


def _misfit(problem: Problem, layout: CacheLayout, batch: Batch) -> Misfit:
    lines = overhead(problem.shape, problem.accelerator, batch, problem.version)
    taken = sum(line.size_bytes for line in lines)
    free = problem.budget_bytes - taken
    in_flight = _in_flight_tokens(problem, batch)
    tokens = problem.needed_tokens
    longest = layout.longest_tokens(free, at_most=tokens, in_flight_tokens=in_flight)
    budget = f"{problem.budget_bytes / GIB:.2f} GiB that vLLM may take"
    if not longest:
        return Misfit(
            "InsufficientMemory",
            f"Weights, activations and runtime need {taken / GIB:.2f} GiB a device, and the"
            f" {budget} leave no room for a cache",
        )
    need = layout.block_bytes * (1 + layout.request_blocks(tokens, in_flight_tokens=in_flight))
    return Misfit(
        "ContextTooLong",
        f"A request of {tokens:,} tokens needs {need / GIB:.2f} GiB of cache, and the {budget}"
        f" leave {free / GIB:.2f} GiB, room for {longest:,} tokens",
        longest,
    )
