"""What variants keep of a trace, and what made-up traffic is like."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.autoscaler import settings
from bench.autoscaler.cluster import EPOCH
from bench.autoscaler.requests import Request
from bench.autoscaler.variants import CHAT, HOUR, drawn, main, shifted, slowed, talks, thinned
from kvarn_operator import autoscale, behavior
from kvarn_operator.api.autoscaling import Autoscaling
from kvarn_operator.pressure import Fleet, Parts, Server
from tests.autoscaler.builders import request

HUNDRED = [request(100 + i, 10, at=float(i)) for i in range(100)]


def gaps(requests: Sequence[Request]) -> list[float]:
    return [b.arrival - a.arrival for a, b in pairwise(requests)]


def test_a_thinned_trace_has_some_of_the_requests_as_they_were() -> None:
    half = thinned(HUNDRED, 0.5)

    assert 30 < len(half) < 70
    assert set(half) < set(HUNDRED)


def test_a_slowed_trace_has_all_of_them_later() -> None:
    assert gaps(slowed(HUNDRED, 3.0)) == [3.0] * 99


def test_a_shifted_trace_begins_with_the_first_that_comes_then() -> None:
    late = shifted(HUNDRED, 40.0)

    assert [late[0].arrival, late[0].prompt_tokens, len(late)] == [0.0, 140, 60]


def test_made_up_traffic_follows_its_rate() -> None:
    made = drawn(lambda at: 2.0 if at < HOUR else 8.0, CHAT)

    first = sum(each.arrival < HOUR for each in made)
    assert first == pytest.approx(2 * HOUR, rel=0.05)
    assert len(made) - first == pytest.approx(16 * HOUR, rel=0.05)


def test_each_request_of_a_chat_begins_with_the_one_before() -> None:
    made = talks(lambda _: 0.01)
    chats = {each.prefix[0]: [r for r in made if r.prefix[0] == each.prefix[0]] for each in made}

    for turns in chats.values():
        prefixes = [turn.prefix for turn in turns]
        assert all(b[:-1] == a for a, b in pairwise(prefixes))
        assert gaps(turns) == pytest.approx([60.0] * 5)


def test_a_folder_without_the_traces_is_refused_with_a_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path)])

    assert (result.exit_code, "is no azure trace" in result.output) == (1, True)


@pytest.mark.parametrize(
    ("setting", "said"), [("HURRY=1", "There is no HURRY: give one"), ("TOLERANCE=x", "no number")]
)
def test_a_setting_that_is_none_is_refused_with_a_sentence(
    tmp_path: Path, setting: str, said: str
) -> None:
    result = CliRunner().invoke(main, [str(tmp_path), "--set", setting])

    assert (result.exit_code, said in result.output) == (1, True)


def test_a_setting_changes_what_the_policy_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (autoscale, behavior):
        monkeypatch.setattr(module, "TOLERANCE", behavior.TOLERANCE)
    a_little_over = Fleet(
        servers=(
            Server(
                name="a",
                parts=Parts(cache=1.05),
                load=1.05,
                capacity_tokens=1000,
                running=0,
                usage=0.0,
            ),
        )
    )

    def size() -> int:
        rules = Autoscaling(max_replicas=9)
        made = autoscale.decide(
            a_little_over, current=1, rules=rules, history=autoscale.History(), now=EPOCH
        )
        return made.replicas

    assert size() == 1
    settings.change(*settings.read("TOLERANCE=0"))
    assert size() == 2
