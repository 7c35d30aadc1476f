"""HorizontalPodAutoscalers, alone and behind KEDA, with their users' defaults.

The arithmetic is that of `replica_calculator.go` in Kubernetes' `pkg/controller/podautoscaler`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.autoscaler.cluster import View
from kvarn_operator.api.autoscaling import Behavior, ScaleDownRules, ScaleUpRules, ScalingPolicy
from kvarn_operator.behavior import Change, Limiter, Past

TOLERANCE = 0.1

DEFAULT = Behavior(
    scale_down=ScaleDownRules(
        policies=[ScalingPolicy(type="Percent", value=100, period_seconds=15)]
    )
)
"""A HorizontalPodAutoscaler's: up to twice the size or 4 pods in 15 s; down after 300 s."""
KAITO = Behavior(
    scale_up=ScaleUpRules(
        stabilization_window_seconds=60,
        policies=[ScalingPolicy(type="Pods", value=1, period_seconds=300)],
    ),
    scale_down=ScaleDownRules(policies=[ScalingPolicy(type="Pods", value=1, period_seconds=300)]),
)
"""`getDefaultHorizontalPodAutoscalerConfig` in keda-kaito-scaler's `pkg/scaledobject`."""


@dataclass(slots=True)
class HPA:
    """A HorizontalPodAutoscaler.

    Attributes:
        calls_for: (view) -> size by the metric alone.
    """

    calls_for: Callable[[View], int]
    behavior: Behavior = DEFAULT
    interval_seconds: float = 15.0
    _past: Past = field(default_factory=Past)

    def desired(self, view: View) -> int:
        """The metric's size, within windows and steps."""
        if not view.samples:
            return view.replicas
        limiter = Limiter(current=view.replicas, behavior=self.behavior, now=view.now)
        wanted = self.calls_for(view)
        past = limiter.remember(self._past, wanted)
        size = max(limiter.stepped(past, limiter.stabilised(past, wanted)), 1)
        if size != view.replicas:
            past = past.changed(Change(view.now, size - view.replicas))
        self._past = past
        return size

    def deletion_costs(self) -> Mapping[str, int]:
        """None: a HorizontalPodAutoscaler leaves the choice to the ReplicaSet."""
        return {}


def cache_usage(target: float) -> Callable[[View], int]:
    """A Pods metric, `kv_cache_usage_perc` against `target`.

    Pods that are loading count as idle when it would grow, as `calcPlainMetricReplicas` has it.
    """

    def calls_for(view: View) -> int:
        total = sum(sample.usage for sample in view.samples.values()) / target
        ready = len(view.samples)
        if abs(total / ready - 1) <= TOLERANCE:
            return view.replicas
        if total <= ready or not view.loading:
            return math.ceil(total)
        ratio = total / view.replicas
        return math.ceil(total) if ratio > 1 + TOLERANCE else view.replicas

    return calls_for


def waiting(threshold: float, *, tolerance_down: float = TOLERANCE) -> Callable[[View], int]:
    """KEDA: an External metric, the sum of `num_requests_waiting`, with an AverageValue.

    It knows nothing of pods that are loading (`GetExternalPerPodMetricReplicas`).
    """

    def calls_for(view: View) -> int:
        total = sum(sample.waiting for sample in view.samples.values())
        ratio = total / (threshold * view.replicas)
        if -tolerance_down <= ratio - 1 <= TOLERANCE:
            return view.replicas
        return math.ceil(total / threshold)

    return calls_for


def hpa_kv() -> HPA:
    """KV cache usage at 80 %."""
    return HPA(cache_usage(0.8))


def keda_production_stack() -> HPA:
    """5 waiting requests a pod: `docs/source/use_cases/autoscaling-keda.rst`, chart 0.1.9."""
    return HPA(waiting(5))


def keda_kaito() -> HPA:
    """10 waiting requests a pod, one pod in five minutes: keda-kaito-scaler's README and code."""
    return HPA(waiting(10, tolerance_down=0.5), behavior=KAITO)
