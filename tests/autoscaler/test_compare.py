"""Whole runs on small made-up traffic."""

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.autoscaler.__main__ import main
from bench.autoscaler.cluster import Cluster, Policy, Run, Setup
from bench.autoscaler.compare import POLICIES, Scene, scene
from bench.autoscaler.oracle import Work, schedule
from bench.autoscaler.policies.fixed import Schedule
from bench.autoscaler.policies.ours import Kvarn
from bench.autoscaler.requests import Request
from bench.autoscaler.summary import Target, flaps
from kvarn_operator.api.autoscaling import Autoscaling
from tests.autoscaler.builders import SERVER, STEP, request

SETUP = Setup(server=SERVER, startup_seconds=60.0, max_replicas=12)
Rate = Callable[[float], float]


def traffic(rate: Rate, *, seconds: float, most: float) -> list[Request]:
    """Prompts of 200 tokens, so that a server carries five a second."""
    draw, at, requests = random.Random(0), 0.0, []
    while (at := at + draw.expovariate(most)) < seconds:
        if draw.random() * most < rate(at):
            requests.append(request(200, 20, at=at))
    return requests


def made(rate: Rate, *, seconds: float = 3600.0, most: float = 24.0) -> Scene:
    return scene(traffic(rate, seconds=seconds, most=most), SETUP, Target(step=STEP, seconds=2.0))


def steps(seconds: float) -> float:
    return 20.0 if 1700 < seconds < 2900 else 5.0


def sizes(scene: Scene, *, restart_seconds: float) -> list[int]:
    policy = Kvarn(Autoscaling(max_replicas=12), restart_seconds=restart_seconds)
    return [moment.wanted for moment in scene.play(policy).moments]


def test_restarts_under_a_steady_load_change_no_size() -> None:
    """Neither does what is forgotten look like less work, nor what is seen first like more."""
    steady = made(lambda _: 12.0)

    assert sizes(steady, restart_seconds=800) == sizes(steady, restart_seconds=math.inf)


@pytest.mark.parametrize("restart_seconds", [300, 700, 1100, 1300])
def test_restarts_while_the_load_changes_make_no_flap(restart_seconds: float) -> None:
    result = made(steps).play(Kvarn(Autoscaling(max_replicas=12), restart_seconds=restart_seconds))

    assert result.summary.flaps == 0


def play(policy: Policy, requests: Sequence[Request], *, initial: int = 1) -> Run:
    return Cluster(Setup(server=SERVER, startup_seconds=60.0, initial=initial), policy).play(
        requests
    )


def test_a_server_counts_from_the_moment_it_was_asked_for() -> None:
    run = play(
        Schedule(sizes=(1, 2), starts=(0.0, 105.0)), [request(10, at=0), request(10, at=200)]
    )

    assert run.gpu_seconds == pytest.approx(200 + 95)


def test_a_server_that_goes_finishes_what_it_has() -> None:
    requests = [request(10, 3000, at=0.0), request(10, 3000, at=0.0), request(10, at=60)]

    run = play(Schedule(sizes=(2, 1), starts=(0.0, 15.0)), requests, initial=2)

    assert all(job.finished > 0 for job in run.jobs)
    assert sum(replica.ended == replica.ended for replica in run.replicas) == 1


def test_a_request_longer_than_the_context_is_rejected() -> None:
    run = play(Schedule(sizes=(1,)), [request(10), request(5000, at=1)])

    assert [job.rejected for job in run.jobs] == [False, True]


def test_only_a_change_that_undoes_another_soon_is_a_flap() -> None:
    assert flaps([(0, 1), (100, 1), (500, -1), (1200, 1)]) == 1


def test_ours_follows_a_step_without_thrashing_and_for_less_than_the_peak() -> None:
    found = made(steps)

    ours, peak = (POLICIES[name](found).summary for name in ("kvarn", "fixed-peak"))

    assert ours.flaps == 0
    assert ours.ttft_violations < 0.11
    assert ours.gpu_hours < 0.75 * peak.gpu_hours


def test_ours_rests_where_the_traffic_does() -> None:
    found = made(lambda _: 10.0)

    ours = POLICIES["kvarn"](found).summary

    assert ours.ttft_violations == 0
    assert ours.scalings_per_hour <= 2


def test_an_oracle_has_servers_ready_when_the_work_comes() -> None:
    work = Work((1.0,) * 20 + (4.0,) * 20 + (1.0,) * 20)

    sizes = schedule(work, SETUP, use=1.0, window_seconds=0.0)

    assert (list(sizes.sizes), list(sizes.starts)) == ([1, 4, 1], [0.0, 240.0, 600.0])


def trace(folder: Path) -> Path:
    path = folder / "trace.jsonl"
    rows = [{"timestamp": 500 * i, "input_length": 900, "output_length": 9} for i in range(200)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_the_command_prints_one_json_object_and_draws(tmp_path: Path) -> None:
    picture = tmp_path / "run.svg"
    options = ["--format", "mooncake", "--policies", "kvarn,hpa-kv,oracle", "--json"]

    result = CliRunner().invoke(
        main, ["--trace", str(trace(tmp_path)), *options, "--svg", str(picture)]
    )

    policies = json.loads(result.stdout)["policies"]
    assert {"gpu_hours", "ttft_violations", "flaps"} <= set(policies["kvarn"])
    assert set(policies) == {"kvarn", "hpa-kv", "oracle"}
    assert picture.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--policies", "magic"], "magic"),
        (["--gpu", "abacus"], "abacus"),
        (["--gpu", "A40"], "A40"),
    ],
)
def test_what_cannot_be_run_is_refused_with_a_sentence(
    tmp_path: Path, options: list[str], said: str
) -> None:
    result = CliRunner().invoke(
        main, ["--trace", str(trace(tmp_path)), "--format", "mooncake", *options]
    )

    assert result.exit_code != 0
    assert said in result.output
    assert "Traceback" not in result.output
