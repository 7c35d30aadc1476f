"""The operator's own policy: its own code, fed with what its scraper would have read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.autoscaler.cluster import View
from kvarn_operator import autoscale, checkpoint, leaving
from kvarn_operator.api.autoscaling import Autoscaling
from kvarn_operator.api.base import timestamp
from kvarn_operator.api.status import LastScale, Status
from kvarn_operator.autoscale import Change, Decision, History
from kvarn_operator.pressure import fleet
from kvarn_operator.readings import Reading, record


@dataclass(slots=True)
class Kvarn:
    """What a pass of the reconciler does between scraping and scaling.

    Attributes:
        restart_seconds: between two restarts of the operator, which then knows what it had written
            into the status.
    """

    rules: Autoscaling
    interval_seconds: float = 5.0
    restart_seconds: float = math.inf
    reasons: list[tuple[float, str, str]] = field(default_factory=list)
    _readings: dict[str, Reading] = field(default_factory=dict)
    _history: History = field(default_factory=History)
    _status: Status = field(default_factory=Status)
    _restarts: int = 0

    def desired(self, view: View) -> int:
        """The decision on this round of samples."""
        if view.seconds // self.restart_seconds > self._restarts:
            self._restart(view)
        learnt = checkpoint.cost(self._status)
        self._readings = record(self._readings, view.samples, now=view.now, learnt=learnt)
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
            self._scaled(view, made)
        return made.replicas

    def _scaled(self, view: View, made: Decision) -> None:
        last = LastScale(
            time=timestamp(view.now),
            from_replicas=view.replicas,
            to_replicas=made.replicas,
            reason=made.reason,
            message=made.message,
        )
        self._status = self._status.model_copy(update={"last_scale": last})

    def _restart(self, view: View) -> None:
        """Forget all that is not in the status."""
        self._restarts += 1
        learnt = checkpoint.take(self._history, self._readings.values(), now=view.now)
        self._status = self._status.model_copy(update={"checkpoint": learnt})
        self._readings = {}
        self._history = checkpoint.restore(self._status, current=view.replicas)

    def deletion_costs(self) -> Mapping[str, int]:
        """What each server has to lose."""
        return leaving.deletion_costs(self._readings, planned_tokens=0)
