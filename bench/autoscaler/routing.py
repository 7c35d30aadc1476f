"""Which server gets a request."""

from collections.abc import Sequence

from bench.autoscaler.engine import Engine
from bench.autoscaler.requests import Request


class Router:
    """Knows queues and prefixes as they were at a poll, and what it has handed over since."""

    def __init__(self, engines: Sequence[Engine], *, now: float) -> None:
        self._engines = engines
        self._outstanding = [engine.outstanding for engine in engines]
        self._computed = [now + engine.backlog_seconds for engine in engines]

    def choose(self, request: Request) -> Engine:
        """The one that will have computed the prompt first; of equals, the one with the least."""
        came = request.arrival
        times = [
            max(at, came) + alone
            for at, alone in zip(self._computed, self._alone(request), strict=True)
        ]
        soonest = min(times)
        first = times.index(soonest)
        if times.count(soonest) > 1:
            equals = [index for index, at in enumerate(times) if at == soonest]
            first = min(equals, key=self._outstanding.__getitem__)
        self._computed[first] = soonest
        self._outstanding[first] += 1
        return self._engines[first]

    def _alone(self, request: Request) -> list[float]:
        """What each would take to compute the prompt if it had nothing else to do."""
        seconds, tokens = self._engines[0].server.step.prefill_seconds, request.prompt_tokens
        if not request.prefix:
            return [seconds(tokens)] * len(self._engines)
        hits = (engine.prefixes.hit_tokens(request) for engine in self._engines)
        return [seconds(tokens, cached=cached) for cached in hits]
