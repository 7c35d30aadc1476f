"""What the server is for, and what its owner has fixed already."""

from dataclasses import dataclass, replace
from typing import Self

from kvarn.planner.camel import camel
from kvarn.planner.errors import RequestError

UTILIZATION_PERCENTS = range(10, 100)
"""Shares of a GPU that may be fixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The requests that the limits are solved for.

    The defaults describe a chat service: in the Azure 2023 conversation trace, nine of ten
    requests have at most 2,735 tokens in and 424 out, 2,820 together.
    """

    prompt_tokens: int = 2048
    output_tokens: int = 512
    concurrency: int = 64

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "output_tokens", "concurrency"):
            value = getattr(self, name)
            if value < 1:
                raise RequestError("InvalidWorkload", f"{camel(name)} is {value}; give at least 1.")

    @classmethod
    def stated(
        cls,
        tokens: int,
        *,
        prompt_tokens: int | None = None,
        output_tokens: int | None = None,
        concurrency: int | None = None,
    ) -> Self:
        """A workload as far as it is stated; the rest as usual, cut to a context of `tokens`.

        Raises:
            RequestError: a number is less than 1.
        """
        usual = cls()
        if prompt_tokens is None and output_tokens is None:
            usual = usual.within(tokens)
        if prompt_tokens is None:
            prompt_tokens = max(1, min(usual.prompt_tokens, tokens - (output_tokens or 0)))
        if output_tokens is None:
            output_tokens = max(1, min(usual.output_tokens, tokens - prompt_tokens))
        return cls(
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            concurrency=usual.concurrency if concurrency is None else concurrency,
        )

    @property
    def request_tokens(self) -> int:
        """Tokens in the cache when a request ends."""
        return self.prompt_tokens + self.output_tokens

    def within(self, tokens: int) -> Self:
        """The same workload, its requests cut to a context of `tokens`."""
        if self.request_tokens <= tokens:
            return self
        output_tokens = max(1, min(self.output_tokens, tokens // 4))
        return replace(
            self, prompt_tokens=max(1, tokens - output_tokens), output_tokens=output_tokens
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is fixed by hand; None leaves it to the planner."""

    max_model_tokens: int | None = None
    max_sequences: int | None = None
    max_batched_tokens: int | None = None
    utilization_percent: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_model_tokens", "max_sequences", "max_batched_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(
                    "InvalidLimits", f"{camel(name)} is {value}; give at least 1, or auto."
                )
        if self.max_sequences and self.max_batched_tokens:
            self._check_batch(self.max_sequences, self.max_batched_tokens)
        if self.utilization_percent not in (None, *UTILIZATION_PERCENTS):
            raise RequestError(
                "InvalidLimits",
                f"utilizationPercent is {self.utilization_percent}; give"
                f" {UTILIZATION_PERCENTS[0]} to {UTILIZATION_PERCENTS[-1]}.",
            )

    def _check_batch(self, sequences: int, tokens: int) -> None:
        """One step computes at least a token for each sequence (vLLM's `SchedulerConfig`)."""
        if tokens < sequences:
            raise RequestError(
                "InvalidLimits",
                f"maxBatchedTokens is {tokens} and maxSequences {sequences}; raise the first"
                " to the second at least.",
            )
