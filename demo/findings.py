"""What the demo has seen, as figures."""

from dataclasses import dataclass, field

from demo.kube import Manifest
from demo.load import Summary
from kvarn import planner


@dataclass(frozen=True)
class CacheFigures:
    """The plan beside what vLLM measured and beside a bf16 cache in the same memory.

    Attributes:
        error_percent: of the measured tokens against the planned ones.
        bytes_per_token: over all layers, tails and padding included.
        bf16_tokens: what the same memory holds in bf16, by plan.
    """

    format: str
    planned_tokens: int
    measured_tokens: int
    error_percent: float
    cache_bytes: int
    bytes_per_token: float
    bf16_tokens: int
    max_tokens: int
    max_sequences: int

    @property
    def gain(self) -> float:
        """How many times the tokens of bf16."""
        return self.measured_tokens / self.bf16_tokens


@dataclass
class Findings:
    """Everything that the acts leave for the summary; durations in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)
    cache: CacheFigures | None = None
    edited: CacheFigures | None = None
    completion: str = ""
    most_replicas: int = 0
    fewest_replicas_after: int = 0
    burst: Summary | None = None
    steady: Summary | None = None
    operator_memory_bytes: int = 0


def cache_figures(status: Manifest) -> CacheFigures:
    """The figures in a resource's status, once it has been planned and measured."""
    plan, measured = status["plan"], status["measured"]
    lines = {line["name"]: line["bytes"] for line in plan["memory"]}
    return CacheFigures(
        format=plan["format"],
        planned_tokens=plan["cacheTokens"],
        measured_tokens=measured["cacheTokens"],
        error_percent=measured["errorPermille"] / 10,
        cache_bytes=lines["cache"],
        bytes_per_token=round(lines["cache"] / measured["cacheTokens"], 1),
        bf16_tokens=_bf16_tokens(status, lines),
        max_tokens=plan["maxTokens"],
        max_sequences=plan["maxSequences"],
    )


def _bf16_tokens(status: Manifest, lines: dict[str, int]) -> int:
    """Tokens of a bf16 cache with the same limits in the same pod."""
    plan = status["plan"]
    alternatives = planner.plan(
        planner.ModelShape.from_dict(status["model"]["shape"]),
        planner.Accelerator.cpu(memory_bytes=lines["total"]),
        limits=planner.Limits(
            max_model_tokens=plan["maxTokens"],
            max_sequences=plan["maxSequences"],
            max_batched_tokens=plan["maxBatchedTokens"],
        ),
        cache_format=plan["format"],
    ).alternatives
    return next(each.cache_tokens for each in alternatives if each.format == "bf16")
