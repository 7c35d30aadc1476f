"""One simulated server, against what can be worked out by hand."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.autoscaler.requests import PREFIX_TOKENS
from tests.autoscaler.builders import SERVER, STEP, request, serve


def test_a_prompt_alone_takes_the_time_of_its_tokens() -> None:
    _, (job,) = serve([request(300)])

    assert job.first_token_seconds == pytest.approx(0.001 + math.hypot(0.3, STEP.weights))


def test_a_long_prompt_is_computed_in_chunks() -> None:
    _, (job,) = serve([request(1024)])

    assert job.first_token_seconds == pytest.approx(2 * (0.001 + math.hypot(0.512, STEP.weights)))


def test_decoding_takes_a_step_for_each_token_after_the_first() -> None:
    _, (job,) = serve([request(100, 51)])

    assert job.finished - job.first_token == pytest.approx(50 * 0.010)


def test_sequences_that_decode_together_take_no_longer_than_one() -> None:
    _, jobs = serve([request(10, 101) for _ in range(4)])

    assert jobs[-1].finished - jobs[-1].first_token == pytest.approx(100 * 0.010)


def test_a_prompt_slows_down_those_that_decode() -> None:
    _, (first, _second) = serve([request(10, 11), request(500, at=0.03)])

    assert first.finished - first.first_token == pytest.approx(9 * 0.010 + 0.501, abs=0.002)


def test_reading_a_cache_that_grows_takes_longer_with_each_step() -> None:
    slow = replace(SERVER, step=replace(STEP, context=1e-5))

    _, (job,) = serve([request(100, 101)], slow)

    reads = sum(1e-5 * (100 + step) for step in range(100))
    assert job.finished - job.first_token == pytest.approx(100 * 0.010 + reads)


def test_who_comes_while_a_step_is_planned_ahead_misses_the_next_one() -> None:
    """It comes in a step that ends at 0.044: the one until 0.054 is planned, it is in the third."""
    _, (_, second) = serve(
        [request(10, 101), request(100, at=0.035)], replace(SERVER, plans_ahead=True)
    )

    assert second.admitted == pytest.approx(0.001 + math.hypot(0.010, STEP.weights) + 0.040)


def test_who_comes_to_an_idle_server_is_admitted_at_once_though_it_plans_ahead() -> None:
    _, (_, second) = serve(
        [request(10, 11), request(100, at=5.0)], replace(SERVER, plans_ahead=True)
    )

    assert second.admitted == pytest.approx(5.0)


def test_open_tiles_take_their_part_of_the_cache() -> None:
    tight = replace(SERVER, cache_tokens=1000, tail_tokens=300)

    _, jobs = serve([request(200, 10), request(200, 10), request(200, 10)], tight)

    assert jobs[1].admitted >= jobs[0].finished


def test_no_more_run_than_may() -> None:
    _, jobs = serve([request(10, 101) for _ in range(4)], replace(SERVER, max_sequences=2))

    assert jobs[2].first_token > jobs[0].finished


def test_where_the_cache_is_full_the_last_is_preempted_and_computed_again() -> None:
    _, jobs = serve([request(400, 300), request(400, 300)], replace(SERVER, cache_tokens=1000))

    assert [job.preemptions > 0 for job in jobs] == [False, True]
    assert jobs[1].computed > 400
    assert jobs[1].finished > jobs[0].finished


def test_a_prefix_that_was_computed_before_is_not_computed_again() -> None:
    prompt = 2 * PREFIX_TOKENS + 100

    _, jobs = serve([request(prompt, prefix=(1, 2, 3)), request(prompt, at=60.0, prefix=(1, 2, 4))])

    assert [job.computed for job in jobs] == [prompt, 100]


def test_prefixes_that_nobody_uses_make_room() -> None:
    """Six prompts in turn, where the cache holds five."""
    prompts = [tuple(range(i * 4, i * 4 + 4)) for i in range(6)] * 2
    requests = [
        request(4 * PREFIX_TOKENS, at=60.0 * i, prefix=prefix) for i, prefix in enumerate(prompts)
    ]

    _, jobs = serve(requests)

    assert all(job.computed == 4 * PREFIX_TOKENS for job in jobs)


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 200), st.floats(0, 20)), min_size=1))
def test_whatever_comes_is_served_whole_and_nothing_is_left_behind(
    drawn: list[tuple[int, int, float]],
) -> None:
    tight = replace(SERVER, cache_tokens=1500, max_sequences=4, max_batched_tokens=256)
    requests = sorted((request(p, o, at=at) for p, o, at in drawn), key=lambda r: r.arrival)

    engine, jobs = serve(requests, tight)

    assert all(job.generated == job.request.output_tokens for job in jobs)
    assert all(job.request.arrival < job.first_token <= job.finished for job in jobs)
    assert (engine.used_tokens, engine.context, engine.totals.finished) == (0, 0, len(jobs))
