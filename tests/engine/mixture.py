"""Many requests that come, grow, share prefixes and are given up while others run."""

import random
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """One of them.

    Attributes:
        prompt: token by token.
        tokens: asked for.
        comes_at: the step before which it is submitted.
        given_up_after: so many tokens of its answer; None when it is heard to the end.
    """

    prompt: list[int]
    tokens: int
    comes_at: int = 0
    given_up_after: int | None = None


def mixture(count: int, *, seed: int = 0) -> list[Request]:
    """Requests of random lengths; every other one begins like some others, every sixth is given up.

    Prompts have 1 to 700 tokens and answers 2 to 48; a new request comes with almost every step.
    """
    dice = random.Random(seed)
    families = [dice.choices(range(256), k=length) for length in (100, 256, 400, 513)]
    return [_request(number, dice, families) for number in range(count)]


def _request(number: int, dice: random.Random, families: list[list[int]]) -> Request:
    family = dice.choice(families) if number % 2 else []
    own = dice.choices(range(256), k=dice.randint(1, 700 - len(family)))
    tokens = dice.randint(2, 48)
    return Request(
        prompt=family + own,
        tokens=tokens,
        comes_at=number + dice.randint(0, 4),
        given_up_after=dice.randint(1, tokens - 1) if number % 6 == 5 else None,
    )


def cut(answers: Iterable[list[int]], requests: Iterable[Request]) -> list[list[int]]:
    """Whole answers as those who gave up heard them."""
    return [
        answer[: request.given_up_after] for answer, request in zip(answers, requests, strict=True)
    ]
