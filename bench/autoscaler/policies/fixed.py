"""Sizes that do not depend on what the servers say."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from bench.autoscaler.cluster import View


@dataclass(frozen=True, slots=True)
class Schedule:
    """Sizes by time: one for a fixed size, many for an oracle.

    Attributes:
        starts: seconds from which each size holds, the first 0.
        interval_seconds: in which they are looked up; each look at the servers takes its time.
    """

    sizes: tuple[int, ...]
    starts: tuple[float, ...] = (0.0,)
    interval_seconds: float = 15.0

    def desired(self, view: View) -> int:
        """The size of the hour."""
        return self.sizes[bisect_right(self.starts, view.seconds) - 1]

    def deletion_costs(self) -> Mapping[str, int]:
        """None: it does not look at the servers."""
        return {}
