"""Whether our policy beats a rival."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.autoscaler.compare import OURS, RIVALS, Result
from bench.autoscaler.summary import Summary

FEWER_VIOLATIONS = 0.5
"""Of a rival's violations, at no more GPU-hours …"""
FEWER_HOURS = 0.85
"""… or of its GPU-hours, at no more violations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Ours against one rival.

    Attributes:
        hours: ours over the rival's.
        violations: likewise; 1 if neither has any.
    """

    rival: str
    hours: float
    violations: float

    @classmethod
    def between(cls, ours: Summary, rival: str, theirs: Summary) -> "Verdict":
        """Ours against `theirs`."""
        some = ours.ttft_violations or theirs.ttft_violations
        violations = ours.ttft_violations / max(theirs.ttft_violations, 1e-9) if some else 1.0
        return cls(rival=rival, hours=ours.gpu_hours / theirs.gpu_hours, violations=violations)

    @property
    def beaten(self) -> bool:
        """Half of its violations for no more GPU-hours, or as many for 0.85 of them."""
        return (self.violations <= FEWER_VIOLATIONS and self.hours <= 1) or (
            self.hours <= FEWER_HOURS and self.violations <= 1
        )


def verdicts(results: Mapping[str, Result]) -> list[Verdict]:
    """Ours against each autoscaling rival that was run."""
    ours = results[OURS].summary
    return [
        Verdict.between(ours, name, results[name].summary) for name in RIVALS if name in results
    ]


def best_rival(results: Mapping[str, Result]) -> str:
    """The one whose users waited least; of several, the cheapest. Empty if none was run."""
    present = [name for name in RIVALS if name in results]
    return min(
        present,
        key=lambda n: (results[n].summary.ttft_violations, results[n].summary.gpu_hours),
        default="",
    )
