"""The operator's own policy: its own code, fed with what its scraper would have read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.autoscaler.cluster import View
from kvarn_operator import autoscale, leaving
from kvarn_operator.api.autoscaling import Autoscaling
from kvarn_operator.autoscale import Change, History
from kvarn_operator.pressure import fleet
from kvarn_operator.readings import Reading, record


@dataclass(slots=True)
class Kvarn:
    """What a pass of the reconciler does between scraping and scaling."""

    rules: Autoscaling
    interval_seconds: float = 5.0
    reasons: list[tuple[float, str, str]] = field(default_factory=list)
    _readings: dict[str, Reading] = field(default_factory=dict)
    _history: History = field(default_factory=History)

    def desired(self, view: View) -> int:
        """The decision on this round of samples."""
        self._readings = record(self._readings, view.samples, now=view.now)
        servers = fleet(
            sorted(view.samples),
            self._readings,
            target=self.rules.target_pressure_percent / 100,
            max_sequences=view.server.max_sequences,
            planned_tokens=view.server.cache_tokens,
            now=view.now,
            poll_seconds=self.interval_seconds,
        )
        made = autoscale.decide(
            servers,
            current=view.replicas,
            rules=self.rules,
            history=self._history,
            now=view.now,
        )
        self._history = made.history
        if made.replicas != view.replicas:
            self._history = made.history.changed(Change(view.now, made.replicas - view.replicas))
            self.reasons.append((view.seconds, made.reason, made.message))
        return made.replicas

    def deletion_costs(self) -> Mapping[str, int]:
        """What each server has to lose."""
        return leaving.deletion_costs(self._readings, planned_tokens=0)
