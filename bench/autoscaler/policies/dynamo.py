"""Dynamo's load planner for aggregated workers, optimising throughput, its default.

`_agg_easy_decision` in `components/src/dynamo/planner/core/load_scaling.py`: one more where any
worker's scheduled and queued tokens exceed its cache, one fewer where all are below 60 %.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.autoscaler.cluster import View

UP, DOWN = 1.0, 0.6


@dataclass(slots=True)
class LoadPlanner:
    """One step each tick, none while a scaling is in progress."""

    interval_seconds: float = 5.0

    def desired(self, view: View) -> int:
        """One more, one fewer, or as it is."""
        if view.loading or not view.samples:
            return view.replicas
        shares = [
            (sample.usage * sample.cache_tokens + view.queued_tokens[name]) / sample.cache_tokens
            for name, sample in view.samples.items()
        ]
        if any(share > UP for share in shares):
            return view.replicas + 1
        return view.replicas - (view.replicas > 1 and all(share < DOWN for share in shares))

    def deletion_costs(self) -> Mapping[str, int]:
        """None."""
        return {}
