"""What is measured: cells of sequences and context, workloads, and how long."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

STEPS = 128
"""Steps of decoding that a cell's time is the mean of."""
SETTLE_SHARE = 0.2
"""Of a window, that passes before it opens."""
ENOUGH_ENDED = 4
"""Requests that end while a window is open, if it need not stay open twice as long for that."""
ALIGNED_TOKENS = 128
"""A multiple of every format's block, to which prompts in the cache are cut."""

_CELL = re.compile(r"(\d+)x(\d+)(k?)")
_WORKLOAD = re.compile(r"(\d+)\+(\d+)")


@dataclass(frozen=True)
class Cell:
    """A batch of equal sequences.

    Attributes:
        sequences: in the batch.
        context: tokens that each has in the cache when its first token is decoded.
    """

    sequences: int
    context: int

    @classmethod
    def parse(cls, text: str) -> "Cell":
        """Read ``64x8192`` or ``64x8k``.

        Raises:
            ValueError: with what is wrong.
        """
        match = _CELL.fullmatch(text)
        if not match:
            raise ValueError(f"{text!r} is no cell; write sequences and context, as in 64x8k")
        cell = cls(int(match[1]), int(match[2]) * (1024 if match[3] else 1))
        if not cell.sequences or not cell.context or cell.context % ALIGNED_TOKENS:
            raise ValueError(
                f"{text!r} is no cell; the context must be a multiple of {ALIGNED_TOKENS} tokens"
            )
        return cell

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return f"{self.sequences}x{self.context}"

    @property
    def tokens(self) -> int:
        """Of one sequence when all steps are done, at most."""
        return self.context + STEPS + 1


@dataclass(frozen=True)
class Workload:
    """Requests of one shape.

    Attributes:
        name: of the workload.
        input_tokens: of a prompt.
        output_tokens: that are generated, neither more nor less.
    """

    name: str
    input_tokens: int
    output_tokens: int

    @classmethod
    def parse(cls, text: str) -> "Workload":
        """Read one of the names, or ``IN+OUT`` in tokens.

        Raises:
            ValueError: with what is wrong.
        """
        if text in WORKLOADS:
            return WORKLOADS[text]
        match = _WORKLOAD.fullmatch(text)
        if not match or not int(match[1]) or int(match[2]) < 2:
            known = ", ".join(WORKLOADS)
            raise ValueError(f"{text!r} is no workload; take {known} or IN+OUT, as in 2048+300")
        return cls(text, int(match[1]), int(match[2]))

    @property
    def tokens(self) -> int:
        """Of one sequence when it ends."""
        return self.input_tokens + self.output_tokens


WORKLOADS = {
    each.name: each
    for each in (
        Workload("burst", 1024, 8192),
        Workload("documents", 32_768, 512),
        Workload("chat", 2048, 300),
    )
}
"""Reasoning in a burst, questions about long documents, chat."""

REFERENCE = Cell(64, 8192)
"""The cell that the goals are about."""
CELLS = (
    REFERENCE,
    *(
        cell
        for context in (1024, 8192, 32_768)
        for sequences in (1, 8, 64, 256)
        if (cell := Cell(sequences, context)) != REFERENCE
    ),
)
GRAPH_SIZES = (*(1, 8, 16, 32, 64, 128, 192, 256, 320, 384, 448, 512), *(640, 768, 896, 1024))
"""Batches with a CUDA graph of their own; others are padded to the next."""


@dataclass(frozen=True)
class Scenario:
    """All that one engine measures.

    Attributes:
        cells: of decoding.
        prefill: whether the first cell's prompts are computed, instead of presumed in the cache.
        workloads: to be served.
        seconds: of each window in which tokens are counted.
        engine: more arguments of vLLM's engine, by name.
    """

    cells: Sequence[Cell]
    prefill: bool
    workloads: Sequence[Workload]
    seconds: float
    engine: dict[str, Any] = field(default_factory=dict)

    @property
    def longest_tokens(self) -> int:
        """Of any sequence, with room for a block: vLLM's ``max_model_len``."""
        longest = max(
            [each.tokens for each in self.cells] + [each.tokens for each in self.workloads]
        )
        return -(-longest // ALIGNED_TOKENS) * ALIGNED_TOKENS + ALIGNED_TOKENS

    def to_dict(self) -> dict[str, Any]:
        """For another process, and for the record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> "Scenario":
        """What ``to_dict`` gave."""
        return replace(
            cls(**given),
            cells=[Cell(**each) for each in given["cells"]],
            workloads=[Workload(**each) for each in given["workloads"]],
        )
