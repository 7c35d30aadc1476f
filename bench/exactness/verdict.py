"""Answers of two runs, compared bit for bit."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What a model wrote to a prompt: tokens, and their log-probabilities."""

    tokens: list[int]
    surety: list[float]


@dataclass(frozen=True)
class Verdict:
    """Two runs compared.

    Attributes:
        name: what must be equal to what.
        tokens: how many were compared.
        differing: how many of them differ.
        largest: difference between log-probabilities of equal tokens, in nats.
        allowed: how large that may be.
    """

    name: str
    tokens: int
    differing: int
    largest: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether nothing differs by more than it may."""
        return self.differing == 0 and self.largest <= self.allowed

    @property
    def word(self) -> str:
        """For people."""
        return "equal" if self.holds else "DIFFERS"


def compare(
    name: str, one: Sequence[Answer], other: Sequence[Answer], *, allowed: float = 0.0
) -> Verdict:
    """Set two runs of the same prompts side by side."""
    pairs = [
        (left, right, sure, surer)
        for first, second in zip(one, other, strict=True)
        for left, right, sure, surer in zip(
            first.tokens, second.tokens, first.surety, second.surety, strict=True
        )
    ]
    equal = [abs(sure - surer) for left, right, sure, surer in pairs if left == right]
    return Verdict(name, len(pairs), len(pairs) - len(equal), max(equal, default=0.0), allowed)
