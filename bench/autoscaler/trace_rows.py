"""What one row of a trace must say: a class for each format, which validates it."""

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bench.autoscaler.requests import Request

MOST_TOKENS = 1 << 24
"""No request has more: a row that says so is broken."""


def _one_at_least(tokens: int) -> int:
    """A request that was answered with nothing has cost a step all the same."""
    return max(tokens, 1)


Tokens = Annotated[int, Field(ge=0, le=MOST_TOKENS), AfterValidator(_one_at_least)]


class _Row(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class AzureRow(_Row):
    """Of AzurePublicDataset's CSV; times without a zone are UTC."""

    timestamp: datetime = Field(alias="TIMESTAMP")
    prompt_tokens: Tokens = Field(alias="ContextTokens")
    output_tokens: Tokens = Field(alias="GeneratedTokens")

    def request(self) -> Request:
        """The request, at seconds of the Unix epoch."""
        time = self.timestamp if self.timestamp.tzinfo else self.timestamp.replace(tzinfo=UTC)
        return Request(
            arrival=time.timestamp(),
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
        )


class MooncakeRow(_Row):
    """Of Mooncake's JSON lines: milliseconds, lengths, ids of the prompt's blocks."""

    timestamp: float
    input_length: Tokens
    output_length: Tokens
    hash_ids: tuple[int, ...] = ()

    def request(self) -> Request:
        """The request, at seconds of the trace's own clock."""
        return Request(
            arrival=self.timestamp / 1000,
            prompt_tokens=self.input_length,
            output_tokens=self.output_length,
            prefix=self.hash_ids,
        )


class ServeGenRow(_Row):
    """Of ServeGen's tables of one client: a window's start, and how it sends there.

    Attributes:
        start: seconds.
        rate: mean requests per second; 0 if empty.
        variation: coefficient of variation of the time between arrivals; 1 if empty.
    """

    start: float
    rate: float = Field(default=0.0, ge=0, le=1e9)
    variation: float = Field(default=1.0, ge=0, le=1e3)

    @classmethod
    def of(cls, columns: list[str]) -> Self:
        """Read from the first columns, of which the last ones may be empty or missing."""
        named = zip(cls.model_fields, columns, strict=False)
        return cls.model_validate({name: text for name, text in named if text})
