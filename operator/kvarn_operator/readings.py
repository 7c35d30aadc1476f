"""What the pods said lately, and what follows from it: rates, and what a token costs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import TypedDict

from kvarn_operator.scrape import Sample, ScrapeError

FRESH_INTERVALS = 3
"""A sample is fresh for this many polls."""
WINDOW_SECONDS = 60.0
"""Rates are taken over this time: long enough for dozens of requests, shorter than a start."""
SEAT_SECONDS = 60.0
"""Time in which those that wait for a place in the batch should have one."""
STANDING_SECONDS, STANDING_LOOKS = 45.0, 3
"""A queue that was found in all looks of this time, and in so many before the last, stands."""
LEAST_SECONDS = 15.0
"""A rate over less says nothing."""
LEAST_TOKENS = 4096
"""Prompt tokens from which the cost of one can be told."""
FORGET_SHARE = 0.01
"""By which the least cost seen is distrusted more each minute: prompts and batches change."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What computing a token of a prompt takes, in seconds; 0 if that is not known.

    Attributes:
        template: of the pods on which it was seen: others may have another GPU, or model.
    """

    token_seconds: float = 0.0
    template: str | None = None


@dataclass(frozen=True, slots=True)
class Spoken:
    """What a pod said at one time."""

    at: datetime
    sample: Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The last good samples of one pod.

    Attributes:
        at: when `sample` was taken.
        past: the ones before it, the oldest first, as far back as `WINDOW_SECONDS`.
        template: what the pod was made of; pods of one are alike.
        token_seconds: the least that a prompt's token was seen to cost on pods of the template, or
            what it cost elsewhere as long as none has computed enough of them; 0 if nobody has.
        cost_is_seen: whether it was seen on pods of the template.
        window_seconds: the longest time that any of the pods was watched.
        error: why the latest try gave none; empty if it did.
    """

    at: datetime
    sample: Sample
    past: tuple[Spoken, ...] = ()
    template: str = ""
    token_seconds: float = 0.0
    cost_is_seen: bool = False
    window_seconds: float = 0.0
    error: str = ""

    @property
    def previous(self) -> Sample:
        """The sample before the last, for what happened between; the same at first."""
        return self.past[-1].sample if self.past else self.sample

    @property
    def oldest(self) -> Sample:
        """The sample at the beginning of the window."""
        return self.past[0].sample if self.past else self.sample

    def is_watched(self, *, poll_seconds: float) -> bool:
        """Whether the pods were read for so long that rates can be told."""
        return self.window_seconds >= FRESH_INTERVALS * poll_seconds

    def is_fresh(self, now: datetime, *, poll_seconds: float) -> bool:
        """Whether it still says how the server is."""
        return now - self.at <= timedelta(seconds=FRESH_INTERVALS * poll_seconds)

    @property
    def watched_seconds(self) -> float:
        """Length of the window that `past` covers."""
        return (self.at - self.past[0].at).total_seconds() if self.past else 0.0

    @property
    def prompt_tokens(self) -> float:
        """Tokens of an ordinary request's prompt that have to be computed."""
        last, first = self.sample, self.oldest
        requests, tokens = last.first_tokens - first.first_tokens, 0
        if requests > 0:
            tokens = last.computed_tokens - first.computed_tokens
        else:
            requests, tokens = last.first_tokens, last.computed_tokens
        return tokens / requests if requests > 0 else 0.0

    @property
    def backlog_seconds(self) -> float:
        """Time that computing the prompts that wait will take."""
        return self.sample.waiting * self.prompt_tokens * self.token_seconds

    @property
    def queue_seconds(self) -> float:
        """Time that requests wait: those that ended lately, or the one that came last."""
        ended = self.sample.queued - self.oldest.queued
        waited = self.sample.queue_seconds - self.oldest.queue_seconds
        return max(waited / ended if ended > 0 else 0.0, self.backlog_seconds)

    @property
    def waiting_share(self) -> float:
        """Share of those that wait that need a place of their own to be served in time.

        By Little's law, a request runs for as long as those that run take to be replaced.
        """
        ended = self.sample.finished - self.oldest.finished
        if ended <= 0:
            return 1.0
        return min(self.sample.running * self.watched_seconds / ended / SEAT_SECONDS, 1.0)

    @property
    def standing_queue(self) -> int:
        """The fewest requests that waited at any time of the window; 0 if it is too short to tell.

        A queue that empties now and then absorbs bursts. One that stands does nothing but delay
        (Nichols and Jacobson 2012, *Controlling Queue Delay*).
        """
        if self.watched_seconds < STANDING_SECONDS or len(self.past) < STANDING_LOOKS:
            return 0
        return min(self.sample.waiting, *(spoken.sample.waiting for spoken in self.past))

    @property
    def preempted_share(self) -> float:
        """Preemptions in the window for each request that ended in it."""
        ended = max(self.sample.finished - self.oldest.finished, 1)
        return (self.sample.preemptions - self.oldest.preemptions) / ended

    @property
    def compute_share(self) -> float:
        """Share of the window that the prompts which came in it take to compute; may exceed 1.

        Those that were answered, those by which the queue has grown since, and those that were
        computed once more after a preemption.
        """
        last, first = self.sample, self.oldest
        requests = last.waiting - first.waiting + last.preemptions - first.preemptions
        tokens = last.computed_tokens - first.computed_tokens + requests * self.prompt_tokens
        return max(tokens, 0.0) * self.token_seconds / max(self.window_seconds, LEAST_SECONDS)

    @property
    def computing_share(self) -> float:
        """Share of the time that it was watched in which the pod computed prompts."""
        tokens = self.sample.computed_tokens - self.oldest.computed_tokens
        return min(tokens * self.token_seconds / max(self.watched_seconds, LEAST_SECONDS), 1.0)

    @property
    def reused_share(self) -> float:
        """Share of the window that computing the tokens would take that were found in the cache."""
        last, first = self.sample, self.oldest
        found = last.prompt_tokens - first.prompt_tokens
        found -= last.computed_tokens - first.computed_tokens
        return max(found, 0.0) * self.token_seconds / max(self.window_seconds, LEAST_SECONDS)


def record(
    readings: Mapping[str, Reading],
    answers: Mapping[str, Sample | ScrapeError],
    *,
    now: datetime,
    templates: Mapping[str, str] = MappingProxyType({}),
    learnt: Cost = Cost(),
) -> dict[str, Reading]:
    """`readings` after a round of `answers`; pods that were not asked are forgotten.

    Args:
        readings: from the round before.
        answers: by pod.
        now: when they were asked.
        templates: of the pods.
        learnt: before a restart.
    """
    kept: dict[str, Reading] = {}
    for pod, answer in answers.items():
        before = readings.get(pod)
        if isinstance(answer, Sample):
            past = _past(before, answer, now)
            template = templates.get(pod, "")
            kept[pod] = Reading(at=now, sample=answer, past=past, template=template)
        elif before is not None:
            kept[pod] = replace(before, error=str(answer))
    window = max((reading.watched_seconds for reading in kept.values()), default=0.0)
    priced = partial(_priced, before=readings.values(), after=kept.values(), learnt=learnt, now=now)
    costs = {name: priced(name) for name in {reading.template for reading in kept.values()}}
    return {
        pod: replace(reading, **costs[reading.template], window_seconds=window)
        for pod, reading in kept.items()
    }


def _past(before: Reading | None, sample: Sample, now: datetime) -> tuple[Spoken, ...]:
    if before is None or _restarted(before.sample, sample):
        return ()
    all_of_it = (*before.past, Spoken(before.at, before.sample))
    oldest = now - timedelta(seconds=WINDOW_SECONDS)
    recent = [spoken for spoken in all_of_it if spoken.at >= oldest]
    return tuple(recent) or all_of_it[-1:]


def _restarted(before: Sample, after: Sample) -> bool:
    """Whether the counters began anew: the server is another one under the same name."""
    return (
        after.finished < before.finished
        or after.preemptions < before.preemptions
        or after.computed_tokens < before.computed_tokens
    )


class _Price(TypedDict):
    """Part of a reading."""

    token_seconds: float
    cost_is_seen: bool


def _priced(
    template: str,
    *,
    before: Collection[Reading],
    after: Collection[Reading],
    learnt: Cost,
    now: datetime,
) -> _Price:
    """The least cost seen on pods of `template`, those seen earlier a little more each minute.

    What was seen on others is worth something only until then: a roll-out may bring a slower GPU.
    """
    seen = [
        reading.token_seconds * (1 + FORGET_SHARE * (now - reading.at).total_seconds() / 60)
        for reading in before
        if reading.template == template and reading.cost_is_seen
    ]
    if not seen and learnt.token_seconds and learnt.template == template:
        seen = [learnt.token_seconds]
    seen.extend(_costs([reading for reading in after if reading.template == template]))
    if seen:
        return _Price(token_seconds=min(seen), cost_is_seen=True)
    elsewhere = max((reading.token_seconds for reading in before), default=0.0)
    return _Price(token_seconds=elsewhere or learnt.token_seconds, cost_is_seen=False)


def _costs(readings: Sequence[Reading]) -> Iterable[float]:
    """Seconds for a token, as the window of each pod shows it from either side.

    A prompt alone takes its tokens' time from its admission to its first token; prompts that share
    steps take longer each. A server that never rests computes at its highest rate; one that rests
    computes at a lower one. So both are upper bounds, and one of them is near the truth.
    """
    for reading in readings:
        if reading.watched_seconds < LEAST_SECONDS:
            continue  # A long prompt that ends in it was mostly computed before it.
        last, first = reading.sample, reading.oldest
        tokens = last.prefilled_tokens - first.prefilled_tokens
        if tokens >= LEAST_TOKENS:
            yield (last.prefill_seconds - first.prefill_seconds) / tokens
        tokens = last.computed_tokens - first.computed_tokens
        if tokens >= LEAST_TOKENS:
            yield reading.watched_seconds / tokens
