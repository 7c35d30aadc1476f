"""What follows from what the pods said lately."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from kvarn_operator.readings import SEAT_SECONDS, WINDOW_SECONDS, Cost, Reading, record
from kvarn_operator.scrape import Sample, ScrapeError
from tests.operator_logic.builders import NOW, later

START = Sample(usage=0.0, running=0, waiting=0, cache_tokens=1000)


def busy(seconds: float, *, rate: float = 1000.0, cost: float = 0.0005, waiting: int = 0) -> Sample:
    """A server that has computed `rate` tokens a second, in prompts of 500, alone each."""
    tokens = int(rate * seconds)
    return replace(
        START,
        running=1,
        waiting=waiting,
        finished=tokens // 500,
        first_tokens=tokens // 500,
        computed_tokens=tokens,
        prompt_tokens=tokens,
        prefill_seconds=cost * tokens,
        prefilled_tokens=tokens,
    )


def watched(samples: Sequence[Sample], *, every: float = 5.0) -> Reading:
    """The reading of one pod after it said `samples`."""
    readings: dict[str, Reading] = {}
    for number, sample in enumerate(samples):
        readings = record(readings, {"a": sample}, now=later(every * number))
    return readings["a"]


def steady(**changes: float) -> Reading:
    return watched([busy(5.0 * i, **changes) for i in range(20)])


def test_the_share_of_time_that_prompts_take_is_their_tokens_cost() -> None:
    assert steady().token_seconds == pytest.approx(0.0005)
    assert steady().compute_share == pytest.approx(0.5)


def test_a_server_that_never_rests_shows_what_a_token_costs_at_most() -> None:
    """Prompts that share steps take longer each than their tokens cost."""
    assert steady(rate=2000, cost=0.002).token_seconds == pytest.approx(1 / 2000)


def test_a_few_tokens_tell_no_cost() -> None:
    assert steady(rate=20).token_seconds == 0
    assert steady(rate=20).compute_share == 0


def test_a_long_prompt_that_just_ended_tells_no_cost() -> None:
    """It was counted whole in a window that saw the end of it."""
    found = watched([START, replace(START, computed_tokens=8000)])

    assert found.token_seconds == 0


def test_until_a_cost_is_seen_it_is_what_it_was_before_a_restart() -> None:
    learnt = Cost(0.0004)
    first = record({}, {"a": busy(0)}, now=NOW, learnt=learnt)
    second = record(first, {"a": busy(5)}, now=later(5), learnt=learnt)

    assert second["a"].compute_share == pytest.approx(5 * 1000 * 0.0004 / 15, rel=0.01)


def test_prompts_by_which_the_queue_grows_count_as_work() -> None:
    samples = [busy(5.0 * i, waiting=5 * i) for i in range(20)]

    found = watched(samples)

    arriving = 1000 + 500  # tokens a second: computed, and one prompt more waits each second
    assert found.compute_share == pytest.approx(arriving * 0.0005)
    assert found.backlog_seconds == pytest.approx(95 * 500 * 0.0005)


def test_what_is_computed_again_after_a_preemption_counts_as_work() -> None:
    samples = [replace(busy(5.0 * i), preemptions=i) for i in range(20)]

    assert watched(samples).compute_share > steady().compute_share


def test_the_window_ends_where_it_should() -> None:
    assert steady().watched_seconds == WINDOW_SECONDS


def test_a_pod_that_came_later_does_not_stretch_the_rate_of_its_short_time() -> None:
    readings: dict[str, Reading] = {}
    for i in range(20):
        answers = {"old": busy(5.0 * i)}
        if i >= 18:
            answers["new"] = busy(5.0 * (i - 18))
        readings = record(readings, answers, now=later(5.0 * i))

    assert readings["new"].compute_share == pytest.approx(0.5 * 5 / WINDOW_SECONDS)


def test_a_new_pod_inherits_what_a_token_costs() -> None:
    readings = record({"old": steady()}, {"old": busy(100), "new": START}, now=later(100))

    assert readings["new"].token_seconds == pytest.approx(0.0005, rel=0.01)


def rolled_out(readings: dict[str, Reading], *, learnt: Cost, since: float) -> list[float]:
    """What a token is taken to cost, each five seconds, by pods of a template five times slower."""
    costs = []
    for i in range(20):
        readings = record(
            readings,
            {"new": busy(5.0 * i, rate=400, cost=0.0025)},
            now=later(since + 5.0 * i),
            templates={"new": "slow"},
            learnt=learnt,
        )
        costs.append(readings["new"].token_seconds)
    return costs


def test_a_roll_out_to_a_slower_gpu_makes_the_old_cost_void() -> None:
    old = {"old": replace(steady(), template="fast")}

    costs = rolled_out(old, learnt=Cost(0.0004, "fast"), since=100)

    assert costs[0] == pytest.approx(0.0005, rel=0.01)  # until enough is computed
    assert costs[-1] == pytest.approx(0.0025)


@pytest.mark.parametrize(
    ("template", "cost"),
    [
        pytest.param("fast", 0.0025, id="of another template"),
        pytest.param(None, 0.0025, id="of nobody knows which"),
        pytest.param("slow", 0.0005, id="of this one"),
    ],
)
def test_a_cost_from_before_a_restart_lasts_on_its_own_template_alone(
    template: str | None, cost: float
) -> None:
    assert rolled_out({}, learnt=Cost(0.0005, template), since=0)[-1] == pytest.approx(
        cost, rel=0.02
    )


def test_the_least_cost_seen_is_distrusted_with_time() -> None:
    early = steady(cost=0.0005)

    readings = record({"a": early}, {"a": replace(early.sample)}, now=later(3600))

    assert 0.0005 < readings["a"].token_seconds < 0.001


def test_queue_time_is_that_of_requests_that_ended_lately() -> None:
    samples = [replace(START, queued=i, queue_seconds=3.0 * i) for i in range(20)]

    assert watched(samples).queue_seconds == pytest.approx(3.0)


def test_those_that_wait_for_short_requests_can_just_follow() -> None:
    """Ten run for two seconds each: in a minute thirty times as many have had their turn."""
    samples = [replace(START, running=10, waiting=30, finished=5 * 5 * i) for i in range(20)]

    assert watched(samples).waiting_share == pytest.approx(2 / SEAT_SECONDS)


def test_those_that_wait_where_nothing_ends_need_a_place_each() -> None:
    assert watched([replace(START, running=10, waiting=30)] * 20).waiting_share == 1.0


@pytest.mark.parametrize(
    ("waiting", "standing"),
    [
        ([9, 8, 7] * 6, 7),
        pytest.param([9] * 12 + [0] + [9] * 5, 0, id="it emptied once"),
        pytest.param([0] * 5 + [9] * 13, 9, id="it was empty before"),
        pytest.param([9] * 6, 0, id="not watched for long"),
    ],
)
def test_a_queue_stands_if_it_was_never_empty(waiting: Sequence[int], standing: int) -> None:
    assert watched([replace(START, waiting=w) for w in waiting]).standing_queue == standing


def test_two_looks_far_apart_show_no_queue_that_stands() -> None:
    waits = replace(START, waiting=1)
    readings = record({}, {"a": waits}, now=NOW)

    readings = record(readings, {"a": ScrapeError("silent")}, now=later(45))
    readings = record(readings, {"a": waits}, now=later(90))

    assert readings["a"].standing_queue == 0


def test_counters_that_began_anew_begin_a_window_anew() -> None:
    readings = record({"a": steady()}, {"a": START}, now=later(100))

    assert readings["a"].compute_share == 0
    assert readings["a"].past == ()


def test_an_error_keeps_the_last_sample_and_its_age() -> None:
    readings = record({}, {"a": START}, now=NOW)

    readings = record(readings, {"a": ScrapeError("refused")}, now=later(5))

    assert (readings["a"].at, readings["a"].error) == (NOW, "refused")


def test_pods_that_are_gone_are_forgotten() -> None:
    assert record(record({}, {"a": START}, now=NOW), {}, now=later(5)) == {}
