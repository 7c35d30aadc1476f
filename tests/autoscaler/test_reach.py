"""Plans of one who knows the future, and what they say of a goal."""

from bisect import bisect_right
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from bench.autoscaler.cluster import Setup
from bench.autoscaler.compare import scene
from bench.autoscaler.oracle import Work, schedule
from bench.autoscaler.policies.fixed import Schedule
from bench.autoscaler.reach import Reach, main, reach
from bench.autoscaler.summary import FLAP_SECONDS, Target, flaps
from tests.autoscaler.builders import SERVER, STEP
from tests.autoscaler.test_compare import traffic

SETUP = Setup(server=SERVER, startup_seconds=60.0, max_replicas=12, initial=3)


def size(plan: Schedule, at: float) -> int:
    return plan.sizes[bisect_right(plan.starts, at) - 1]


@given(st.lists(st.floats(0.0, 8.0), min_size=1, max_size=300))
def test_a_calm_plan_has_no_flap_and_all_servers_that_a_hasty_one_has(work: list[float]) -> None:
    calm, hasty = (
        schedule(Work(tuple(work)), SETUP, use=1.0, window_seconds=0, calm_seconds=seconds)
        for seconds in (FLAP_SECONDS, 0.0)
    )

    sizes = (SETUP.initial, *calm.sizes)
    changes = zip(calm.starts, (after - before for before, after in pairwise(sizes)), strict=True)
    assert flaps(change for change in changes if change[1]) == 0
    moments = sorted({*calm.starts, *hasty.starts})
    assert all(size(calm, at) >= size(hasty, at) for at in moments)


def test_a_goal_is_open_only_where_somebody_can_pay_for_it() -> None:
    made = {"trace": "t", "rival": "r", "late": 0.1, "allowed_hours": 2.0}

    assert Reach(**made, needed_hours=2.0).is_open
    assert not Reach(**made, needed_hours=2.1).is_open
    assert not Reach(**made, needed_hours=None).is_open


def test_both_ways_to_the_goal_are_looked_at() -> None:
    requests = traffic(lambda at: 2.0 if at < 600 else 6.0, seconds=1200.0, most=6.0)
    made = scene(requests, SETUP, Target(step=STEP, seconds=2.0))

    rarely, cheaply = reach("steps", made)

    assert rarely.late == pytest.approx(cheaply.late / 2, abs=1e-5)
    assert cheaply.allowed_hours == pytest.approx(0.85 * rarely.allowed_hours, abs=0.02)
    assert (rarely.needed_hours or 99) >= (cheaply.needed_hours or 99)


def test_a_folder_without_the_traces_is_refused_with_a_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path)])

    assert (result.exit_code, "is no azure trace" in result.output) == (1, True)
