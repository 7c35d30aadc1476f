"""What the rivals do with the same evidence, against their documented rules."""

from dataclasses import replace
from typing import Any

import pytest

from bench.autoscaler.cluster import View
from bench.autoscaler.policies.dynamo import LoadPlanner
from bench.autoscaler.policies.fixed import Schedule
from bench.autoscaler.policies.hpa import cache_usage, hpa_kv, keda_kaito, waiting
from bench.autoscaler.policies.wva import PercentAnalyzer, TokenAnalyzer
from kvarn_operator.scrape import Sample
from tests.autoscaler.builders import SERVER

IDLE = Sample(usage=0.0, running=0, waiting=0, cache_tokens=10_000, first_tokens=1)


def view(*samples: Sample, replicas: int = 0, seconds: float = 0.0, queued: int = 0) -> View:
    names = [f"server-{number}" for number, _ in enumerate(samples)]
    return View(
        seconds=seconds,
        replicas=replicas or len(samples),
        samples=dict(zip(names, samples, strict=True)),
        queued_tokens=dict.fromkeys(names, queued),
        server=SERVER,
    )


def said(**changes: Any) -> Sample:
    return replace(IDLE, **changes)


@pytest.mark.parametrize(("usage", "size"), [(0.8, 2), (0.86, 2), (0.95, 3), (0.5, 2), (0.3, 1)])
def test_an_hpa_follows_the_mean_usage_within_its_tolerance(usage: float, size: int) -> None:
    assert cache_usage(0.8)(view(said(usage=usage), said(usage=usage))) == size


def test_an_hpa_takes_loading_pods_for_idle_ones_when_it_would_grow() -> None:
    assert cache_usage(0.8)(view(said(usage=0.9), replicas=2)) == 2


def test_an_hpa_shrinks_only_after_its_window() -> None:
    policy, size, sizes = hpa_kv(), 3, []
    for step in range(24):
        seen = view(*[IDLE] * size, seconds=15.0 * step)
        size = policy.desired(seen)
        sizes.append(size)

    assert sizes[:20] == [3] * 20
    assert sizes[-1] == 1


def test_keda_divides_what_waits_and_gives_no_credit_for_loading_pods() -> None:
    assert waiting(5)(view(said(waiting=16))) == 4
    assert waiting(5)(view(said(waiting=16), replicas=8)) == 4


def test_kaito_adds_one_pod_in_five_minutes() -> None:
    policy, size = keda_kaito(), 1
    for step in range(12):
        size = policy.desired(view(said(waiting=100), replicas=size, seconds=15.0 * step))

    assert size == 2


def test_wva_v1_grows_on_little_spare_cache_and_waits_for_pods_that_load() -> None:
    assert PercentAnalyzer().calls_for(view(said(usage=0.75))) == 2
    assert PercentAnalyzer().calls_for(view(said(usage=0.75), replicas=2)) == 2


def test_wva_v1_shrinks_where_the_others_have_room() -> None:
    assert PercentAnalyzer().calls_for(view(said(usage=0.1), said(usage=0.1))) == 1
    assert PercentAnalyzer().calls_for(view(said(usage=0.4), said(usage=0.4))) == 2


def test_wva_v2_counts_tokens_that_wait() -> None:
    busy = said(usage=0.5, waiting=10, prompt_tokens=1000, generated_tokens=100)

    assert TokenAnalyzer().calls_for(view(busy)) > 2


def test_dynamo_steps_by_one_and_not_while_a_pod_loads() -> None:
    full = said(usage=0.9)

    assert LoadPlanner().desired(view(full, queued=2000)) == 2
    assert LoadPlanner().desired(view(full, queued=2000, replicas=2)) == 2
    assert LoadPlanner().desired(view(said(usage=0.5), said(usage=0.5))) == 1


def test_a_schedule_keeps_its_hours() -> None:
    policy = Schedule(sizes=(1, 4, 2), starts=(0.0, 60.0, 120.0))

    assert [policy.desired(view(IDLE, seconds=s)) for s in (0, 59, 60, 200)] == [1, 1, 4, 2]
