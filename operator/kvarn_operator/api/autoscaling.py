"""The part of the spec that says who decides the size, with a HorizontalPodAutoscaler's names."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from kvarn_operator.api.base import ApiModel, rule, rules


class ScalingPolicy(ApiModel):
    """A limit on how far the size may move within a period, as in a HorizontalPodAutoscaler."""

    type: Literal["Pods", "Percent"]
    """Whether value counts pods or is a percentage of the size at the period's start."""
    value: int = Field(ge=1, le=10000)
    """The most that may be added or removed within the period."""
    period_seconds: int = Field(ge=1, le=1800)
    """Length of the period."""


def _policies(*policies: ScalingPolicy) -> Any:
    return Field(
        default=list(policies),
        min_length=1,
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class ScaleUpRules(ApiModel):
    """How the size may grow."""

    stabilization_window_seconds: int = Field(default=0, ge=0, le=3600)
    """The size grows only to the least that was called for within this window."""
    select_policy: Literal["Max", "Min", "Disabled"] = "Max"
    """Which of several policies counts: the widest, the narrowest, or none ever."""
    policies: list[ScalingPolicy] = _policies(
        ScalingPolicy(type="Percent", value=100, period_seconds=15),
        ScalingPolicy(type="Pods", value=4, period_seconds=15),
    )
    """Step limits."""


class ScaleDownRules(ApiModel):
    """How the size may shrink."""

    stabilization_window_seconds: int = Field(default=300, ge=0, le=3600)
    """The size shrinks only to the most that was called for within this window, and, where the
    operator owns it, is kept for twice as long after it grew.
    """
    select_policy: Literal["Max", "Min", "Disabled"] = "Max"
    """Which of several policies counts: the widest, the narrowest, or none ever."""
    policies: list[ScalingPolicy] = _policies(
        ScalingPolicy(type="Percent", value=25, period_seconds=60),
        ScalingPolicy(type="Pods", value=1, period_seconds=60),
    )
    """Step limits."""


class Behavior(ApiModel):
    """Windows and step limits, with the names and the meaning of a HorizontalPodAutoscaler's."""

    scale_up: ScaleUpRules = ScaleUpRules()
    """How the size may grow."""
    scale_down: ScaleDownRules = ScaleDownRules()
    """How the size may shrink."""


class Autoscaling(ApiModel):
    """Who decides the number of replicas, and within which bounds."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.mode == 'none' || has(self.maxReplicas)",
                "maxReplicas is missing: say how far the size may grow",
            ),
            rule(
                "self.mode != 'keda' || has(self.prometheusAddress)",
                "prometheusAddress is missing: say where KEDA may ask for the demand",
            ),
            rule(
                "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
                "minReplicas must not be greater than maxReplicas",
            ),
        )
    )

    mode: Literal["builtin", "hpa", "keda", "none"] = "builtin"
    """Who decides: the operator (builtin); a HorizontalPodAutoscaler (hpa) or ScaledObject (keda)
    that it makes, and tells the demand; or nobody but spec.replicas (none).
    """
    min_replicas: int = Field(default=1, ge=1, le=1000)
    """Never fewer than these."""
    max_replicas: int | None = Field(default=None, ge=1, le=1000)
    """Never more than these."""
    target_pressure_percent: int = Field(default=85, ge=10, le=100)
    """KV cache usage at which a replica counts as full."""
    target_queue_seconds: int | None = Field(default=None, ge=1, le=3600)
    """Mean time that requests may wait to be admitted; nothing is asked of it if absent."""
    behavior: Behavior = Behavior()
    """Windows and step limits."""
    prometheus_address: str | None = Field(
        default=None, max_length=512, pattern=r"^https?://[A-Za-z0-9._:/-]+$"
    )
    """In mode keda, where KEDA finds the Prometheus that collects the operator's metrics."""
