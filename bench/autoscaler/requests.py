"""A request of a trace, and what becomes of it in one run."""

import math
from dataclasses import dataclass

PREFIX_TOKENS = 512
"""Tokens that one id of `Request.prefix` stands for, as in Mooncake's traces."""


@dataclass(frozen=True, slots=True)
class Request:
    """One line of a trace.

    Attributes:
        arrival: seconds since the trace began.
        prefix: ids of the prompt's blocks of `PREFIX_TOKENS`; equal ids are equal beginnings.
    """

    arrival: float
    prompt_tokens: int
    output_tokens: int
    prefix: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way.

    Attributes:
        left: tokens of the prompt, and after a preemption of the answer, still to be computed.
        context: tokens that its cache will hold when they are.
        cached: tokens found in the cache when it was admitted last.
        held: tokens of cache that it holds alone.
        computed: tokens computed for it in all, twice where it was preempted.
        generated: tokens of its answer so far, at its last admission or end.
        ends: the engine's step at which it is complete.
        admitted: for the first time, in seconds since the trace began; NaN while it was not.
        first_token: likewise.
    """

    request: Request
    left: int = 0
    context: int = 0
    cached: int = 0
    held: int = 0
    computed: int = 0
    generated: int = 0
    ends: int = 0
    admitted: float = float("nan")
    first_token: float = float("nan")
    finished: float = float("nan")
    preemptions: int = 0
    rejected: bool = False

    @property
    def first_token_seconds(self) -> float:
        """Time to the first token."""
        return self.first_token - self.request.arrival

    @property
    def is_finished(self) -> bool:
        """Whether its answer is complete."""
        return not math.isnan(self.finished)
