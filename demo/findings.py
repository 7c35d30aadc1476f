"""What the demo has seen, as figures."""

from dataclasses import dataclass, field

from demo.kube import Manifest
from demo.load import Summary

BF16_BYTES = 2


@dataclass(frozen=True)
class CacheFigures:
    """The plan beside what vLLM measured, and beside a bf16 cache in the same memory.

    Attributes:
        error_percent: of the measured tokens against the planned ones.
        bytes_per_token: over all layers, open tiles and padding included.
        bf16_bytes_per_token: keys and values of all layers, two bytes each.
    """

    format: str
    planned_tokens: int
    measured_tokens: int
    error_percent: float
    cache_bytes: int
    bytes_per_token: float
    bf16_bytes_per_token: int
    max_tokens: int
    max_sequences: int

    @property
    def bf16_tokens(self) -> int:
        """What the same memory holds in bf16."""
        return self.cache_bytes // self.bf16_bytes_per_token

    @property
    def gain(self) -> float:
        """How many times the tokens of bf16."""
        return self.measured_tokens / self.bf16_tokens


@dataclass
class Findings:
    """Everything that the acts leave for the summary.

    Attributes:
        seconds: how long each act took.
        before, after: the cache of the sample, and of the edited resource.
        replicas: how many served under the burst, and when it was over.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    before: CacheFigures | None = None
    after: CacheFigures | None = None
    completion: str = ""
    replicas: list[int] = field(default_factory=list)
    burst: Summary | None = None
    steady: Summary | None = None
    operator_memory_bytes: int = 0


def cache_figures(status: Manifest) -> CacheFigures:
    """The figures in a resource's status, once it has been planned and measured."""
    plan, measured, shape = status["plan"], status["measured"], status["model"]["shape"]
    cache_bytes = next(line["bytes"] for line in plan["memory"] if line["name"] == "cache")
    return CacheFigures(
        format=plan["format"],
        planned_tokens=plan["cacheTokens"],
        measured_tokens=measured["cacheTokens"],
        error_percent=measured["errorPermille"] / 10,
        cache_bytes=cache_bytes,
        bytes_per_token=round(cache_bytes / measured["cacheTokens"], 1),
        bf16_bytes_per_token=(
            2 * BF16_BYTES * shape["layers"] * shape["kvHeads"] * shape["headDim"]
        ),
        max_tokens=plan["maxTokens"],
        max_sequences=plan["maxSequences"],
    )
