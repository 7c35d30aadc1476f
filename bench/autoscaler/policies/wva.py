"""llm-d's Workload Variant Autoscaler: percentages (V1) and tokens (V2), one variant.

V1: `internal/saturation/analyzer.go`; V2: `internal/engines/analyzers/saturation_v2/analyzer.go`.
Both write a gauge that a HorizontalPodAutoscaler follows; that adds its windows and steps.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean, median

from bench.autoscaler.cluster import View
from bench.autoscaler.policies.hpa import HPA
from kvarn_operator.scrape import Sample

CACHE_FULL = 0.80
QUEUE_FULL = 5
SPARE_CACHE, SPARE_QUEUE = 0.10, 3
UP, DOWN = 0.85, 0.70
LOOKBACK = 4
"""Scrapes in the minute over which V1 takes each pod's maximum, at one every 15 s."""


@dataclass(slots=True)
class PercentAnalyzer:
    """V1: one more where little is spare, one fewer where the others have room for its load."""

    _seen: dict[str, deque[tuple[float, int]]] = field(default_factory=dict)

    def calls_for(self, view: View) -> int:
        """One more or one fewer, or as it is; nothing moves while a pod is loading."""
        peaks = [self._peak(name, sample) for name, sample in view.samples.items()]
        if view.loading or not peaks:
            return view.replicas
        calm = [
            (usage, queue) for usage, queue in peaks if usage < CACHE_FULL and queue < QUEUE_FULL
        ]
        if not calm or self._is_short(calm):
            return view.replicas + 1
        return view.replicas - self._may_shrink(calm)

    def _peak(self, name: str, sample: Sample) -> tuple[float, int]:
        seen = self._seen.setdefault(name, deque(maxlen=LOOKBACK))
        seen.append((sample.usage, sample.waiting))
        return max(usage for usage, _ in seen), max(queue for _, queue in seen)

    def _is_short(self, calm: list[tuple[float, int]]) -> bool:
        spare_cache = fmean(CACHE_FULL - usage for usage, _ in calm)
        spare_queue = fmean(QUEUE_FULL - queue for _, queue in calm)
        return spare_cache < SPARE_CACHE or spare_queue < SPARE_QUEUE

    def _may_shrink(self, calm: list[tuple[float, int]]) -> bool:
        if len(calm) < 2:
            return False
        growth = len(calm) / (len(calm) - 1)
        after = [(usage * growth, queue * growth) for usage, queue in calm]
        spare_cache = fmean(CACHE_FULL - usage for usage, _ in after)
        spare_queue = fmean(QUEUE_FULL - queue for _, queue in after)
        return spare_cache >= SPARE_CACHE and spare_queue >= SPARE_QUEUE


@dataclass(slots=True)
class TokenAnalyzer:
    """V2: demand in tokens over capacity in tokens, where capacity is learned from full pods."""

    _observed: deque[float] = field(default_factory=lambda: deque(maxlen=10))

    def calls_for(self, view: View) -> int:
        """As many as bring demand to `UP` of capacity; fewer only below `DOWN`."""
        if not view.samples:
            return view.replicas
        samples = list(view.samples.values())
        self._observe(samples)
        capacity = median(self._capacity(view, sample) for sample in samples)
        demand = sum(self._demand(sample) for sample in samples)
        if demand > UP * capacity * view.replicas:
            return math.ceil(demand / (UP * capacity))
        if demand < DOWN * capacity * view.replicas and not view.loading:
            return max(math.ceil(demand / (DOWN * capacity)), 1)
        return view.replicas

    def _observe(self, samples: list[Sample]) -> None:
        self._observed.extend(
            sample.usage * sample.cache_tokens for sample in samples if sample.waiting >= QUEUE_FULL
        )

    def _capacity(self, view: View, sample: Sample) -> float:
        """The lesser of what memory and what compute allows."""
        by_memory = CACHE_FULL * sample.cache_tokens
        if self._observed:
            return max(min(by_memory, fmean(self._observed)), 1.0)
        prompt, output = _lengths(sample)
        batch = view.server.max_batched_tokens * output / (prompt + output)
        sequences = min(batch, view.server.max_sequences)
        return max(min(by_memory, sequences * (prompt + output / 2)), 1.0)

    def _demand(self, sample: Sample) -> float:
        prompt, output = _lengths(sample)
        return sample.usage * sample.cache_tokens + sample.waiting * (prompt + output)


def _lengths(sample: Sample) -> tuple[float, float]:
    """Mean tokens of prompts and answers."""
    seen = max(sample.first_tokens, 1)
    return max(sample.prompt_tokens / seen, 1.0), max(sample.generated_tokens / seen, 1.0)


def wva_v1() -> HPA:
    """The percentage analyzer each 30 s, behind a HorizontalPodAutoscaler."""
    return HPA(PercentAnalyzer().calls_for, interval_seconds=30.0)


def wva_v2() -> HPA:
    """The token analyzer each 30 s, behind a HorizontalPodAutoscaler."""
    return HPA(TokenAnalyzer().calls_for, interval_seconds=30.0)
