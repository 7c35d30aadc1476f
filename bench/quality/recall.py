"""Needles in a haystack: codes of things, scattered through prose and asked for at its end.

Nothing but the cache holds a code, so a model that names it has read it there.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

# fmt: off
ADJECTIVES = (
    "amber", "ancient", "black", "bright", "broken", "calm", "clever", "cold", "copper",
    "crimson", "curious", "distant", "dusty", "early", "empty", "fierce", "gentle", "golden",
    "green", "heavy", "hidden", "hollow", "honest", "iron", "late", "little", "lonely", "loud",
    "narrow", "northern", "pale", "patient",
)
NOUNS = (
    "anchor", "apple", "arrow", "barrel", "bell", "bridge", "candle", "castle", "clock",
    "cloud", "compass", "door", "engine", "falcon", "forest", "garden", "hammer", "harbour",
    "horse", "island", "kettle", "ladder", "lantern", "letter", "mirror", "mountain", "needle",
    "orchard", "river", "ship", "stone", "tower",
)
# fmt: on
DIGITS = 5

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Haystack:
    """A sequence that ends with questions.

    Attributes:
        tokens: ``[length]``.
        answers: positions of the codes' digits among the questions, ``[asked, DIGITS]``.
    """

    tokens: Tokens
    answers: Tokens


class Needles:
    """Writes haystacks in the tokens of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._names = [
            _ids(tokenizer, f"\n\nThe code of the {adjective} {noun} is ")
            for adjective, noun in product(ADJECTIVES, NOUNS)
        ]
        self._digits = np.concatenate([_ids(tokenizer, str(digit)) for digit in range(10)])
        self._end = _ids(tokenizer, ".")
        self._ask = _ids(tokenizer, ".\n\nNow say the codes again.")

    def haystack(
        self, prose: Tokens, *, length: int, facts: int, rng: np.random.Generator
    ) -> Haystack:
        """Put `facts` needles at random places of the prose, and ask for all in another order.

        Args:
            prose: at least `length` tokens.
            length: tokens of the result.
            facts: number of needles.
            rng: where chance comes from.

        Raises:
            ValueError: the needles and the questions are longer than the haystack.
        """
        names = rng.choice(len(self._names), facts, replace=False)
        codes = self._digits[rng.integers(10, size=(facts, DIGITS))]
        needles = [
            np.concatenate([self._names[name], code, self._end])
            for name, code in zip(names, codes, strict=True)
        ]
        questions, answers = self._questions(needles, rng)
        room = length - len(questions) - sum(map(len, needles))
        if room <= 0:
            raise ValueError(f"{facts} facts leave no room in {length} tokens: ask for fewer")
        places = np.sort(rng.integers(room, size=facts))
        pieces = np.split(prose[:room], places)
        body = [part for pair in zip(pieces, needles, strict=False) for part in pair]
        tokens = np.concatenate([*body, pieces[-1], questions])
        return Haystack(tokens, answers + length - len(questions))

    def _questions(self, needles: list[Tokens], rng: np.random.Generator) -> tuple[Tokens, Tokens]:
        parts = [self._ask, *(needles[n] for n in rng.permutation(len(needles)))]
        ends = np.cumsum([len(part) for part in parts])[1:] - len(self._end)
        return np.concatenate(parts), ends[:, None] - np.arange(DIGITS, 0, -1)


def _ids(tokenizer: Tokenizer, text: str) -> Any:
    return np.array(tokenizer.encode(text).ids, dtype=np.int64)
