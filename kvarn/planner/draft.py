"""One format tried: the limits and the account that it gives, or the reason why it gives none."""

from dataclasses import dataclass, replace

from kvarn.planner.accelerators import GIB
from kvarn.planner.cache import CacheLayout, cache_layout, ceil_div
from kvarn.planner.formats import CacheFormat
from kvarn.planner.memory import AccountLine, Batch
from kvarn.planner.problem import Problem
from kvarn.planner.roofline import Roofline

UNSUPPORTED = "UnsupportedFormat"


@dataclass(frozen=True, slots=True)
class Room:
    """What one batch leaves to the cache of one device, laid out for one format.

    Attributes:
        lines: what the device holds beside the cache.
        cache_bytes: what is left within the budget; negative where there is too little.
        in_flight_tokens: tokens that are being computed at once.
        states: sequences that need a block of recurrent states each before vLLM starts.
    """

    layout: CacheLayout
    lines: tuple[AccountLine, ...]
    cache_bytes: int
    in_flight_tokens: int
    states: int

    @property
    def usable_blocks(self) -> int:
        """Blocks of the pool, but for the one that vLLM keeps empty."""
        return self.layout.blocks(self.cache_bytes) - 1

    def request_blocks(self, tokens: int) -> int:
        """Blocks that a request of `tokens` tokens takes."""
        return self.layout.request_blocks(tokens, in_flight_tokens=self.in_flight_tokens)

    def holds(self, tokens: int) -> bool:
        """Whether vLLM starts, and admits a request of `tokens` tokens."""
        return self.has_states and self.request_blocks(tokens) <= self.usable_blocks

    @property
    def has_states(self) -> bool:
        """Whether the pool has blocks for all recurrent states that vLLM asks for."""
        return self.states <= self.layout.blocks(self.cache_bytes)

    def longest_tokens(self, at_most: int) -> int:
        """Longest request, up to `at_most` tokens, that vLLM admits; 0 when not one token is."""
        return self.layout.longest_tokens(
            self.cache_bytes, at_most=at_most, in_flight_tokens=self.in_flight_tokens
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Limits with which one format fits.

    Attributes:
        lines: what one device holds beside the cache.
        cache_bytes: the cache of one device.
        requests: requests of the workload that the cache holds at once.
        served: how many of them run at once: as many as are asked for, held and scheduled.
        tokens_per_second: output of so many by the roofline; 0 where the device is not known.
    """

    format: CacheFormat
    layout: CacheLayout
    batch: Batch
    lines: tuple[AccountLine, ...]
    cache_bytes: int
    max_model_tokens: int
    request_blocks: int
    requests: int
    served: int
    tokens_per_second: int

    @property
    def cache_blocks(self) -> int:
        """Blocks in the pool."""
        return self.layout.blocks(self.cache_bytes)

    @property
    def cache_tokens(self) -> int:
        """The `kv_cache_size_tokens` that vLLM will report."""
        return self.layout.reported_tokens(
            self.cache_blocks, self.max_model_tokens, self.request_blocks
        )


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
    """The batch limits with which `cache_format` serves the most of the workload at once.

    Of limits that serve as many, the widest batch: it computes prompts in fewer steps.
    """
    if refusal := cache_format.refusal(problem.shape, problem.accelerator, problem.version):
        return Misfit(UNSUPPORTED, refusal)
    layout = cache_layout(problem.shape, problem.accelerator, cache_format, problem.version)
    best: Draft | None = None
    for batch in problem.batches():
        narrowed = _narrowed(problem, cache_format, layout, batch)
        room = _room(problem, cache_format, layout, narrowed)
        if room.holds(problem.needed_tokens):
            draft = _draft(problem, cache_format, narrowed, room)
            if best is None or draft.served > MORE * best.served:
                best = draft
    return best or _misfit(problem, room)


MORE = 1.02
"""How many times the requests a narrower batch must serve to be worth its slower prompts."""


def fits(problem: Problem, cache_format: CacheFormat) -> bool:
    """Whether `attempt` gives a draft, found out without making one."""
    if cache_format.refusal(problem.shape, problem.accelerator, problem.version):
        return False
    layout = cache_layout(problem.shape, problem.accelerator, cache_format, problem.version)
    *_, smallest = problem.batches()
    if not problem.limits.max_sequences:
        smallest = replace(smallest, max_sequences=1)
    return _room(problem, cache_format, layout, smallest).holds(problem.needed_tokens)


def _room(problem: Problem, cache_format: CacheFormat, layout: CacheLayout, batch: Batch) -> Room:
    lines = problem.held(batch, cache_format)
    taken = sum(line.size_bytes for line in lines)
    in_flight_tokens = problem.in_flight_steps * batch.max_batched_tokens
    return Room(
        layout,
        lines,
        problem.budget_bytes - taken,
        in_flight_tokens,
        problem.recurrent_sequences(batch),
    )


def _narrowed(
    problem: Problem, cache_format: CacheFormat, layout: CacheLayout, batch: Batch
) -> Batch:
    """The batch with no more sequences than the cache holds requests of the workload.

    Fewer sequences leave more memory to the cache, so the number is searched for.
    """
    if problem.limits.max_sequences:
        return batch
    low, high = 1, batch.max_sequences
    while low < high:
        middle = ceil_div(low + high, 2)
        room = _room(problem, cache_format, layout, replace(batch, max_sequences=middle))
        enough = room.holds(problem.needed_tokens) and _requests(problem, room) >= middle
        low, high = (middle, high) if enough else (low, middle - 1)
    return replace(batch, max_sequences=low)


def _requests(problem: Problem, room: Room) -> int:
    return room.usable_blocks // room.request_blocks(problem.workload.request_tokens)


def _draft(problem: Problem, cache_format: CacheFormat, batch: Batch, room: Room) -> Draft:
    longest = room.longest_tokens(
        problem.limits.max_model_tokens or problem.shape.max_position_tokens
    )
    request_blocks = room.request_blocks(longest)
    if problem.accelerator.is_cpu:
        useful_bytes = (1 + batch.max_sequences * request_blocks) * room.layout.block_bytes
        room = replace(room, cache_bytes=min(room.cache_bytes, useful_bytes))
    requests = _requests(problem, room)
    served = min(requests, batch.max_sequences, problem.workload.concurrency)
    return Draft(
        format=cache_format,
        layout=room.layout,
        batch=batch,
        lines=room.lines,
        cache_bytes=room.cache_bytes,
        max_model_tokens=longest,
        request_blocks=request_blocks,
        requests=requests,
        served=served,
        tokens_per_second=_speed(problem, cache_format, served),
    )


def _speed(problem: Problem, cache_format: CacheFormat, served: int) -> int:
    line = Roofline(shape=problem.shape, accelerator=problem.accelerator, cache_format=cache_format)
    if not (line.is_known and served):
        return 0
    return round(line.tokens_per_second(problem.workload, served))


def _misfit(problem: Problem, room: Room) -> Misfit:
    """Why the room that the narrowest batch leaves is too little."""
    taken = sum(line.size_bytes for line in room.lines)
    tokens = problem.needed_tokens
    longest = room.longest_tokens(tokens)
    budget = f"{problem.budget_bytes / GIB:.2f} GiB that vLLM may take"
    if not longest:
        return Misfit(
            "InsufficientMemory",
            f"Weights, activations and runtime need {taken / GIB:.2f} GiB a device, and the"
            f" {budget} leave no room for a cache",
        )
    if not room.has_states:
        return Misfit(
            "InsufficientMemory",
            f"Each of {room.states:,} sequences needs a block of recurrent states, and the cache"
            f" has {room.layout.blocks(room.cache_bytes):,}",
        )
    need = room.layout.block_bytes * (1 + room.request_blocks(tokens))
    return Misfit(
        "ContextTooLong",
        f"A request of {tokens:,} tokens needs {need / GIB:.2f} GiB of cache, and the {budget}"
        f" leave {room.cache_bytes / GIB:.2f} GiB, room for {longest:,} tokens",
        longest,
    )
