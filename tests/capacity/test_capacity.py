"""How many tokens of a sequence's length a cache holds against bf16."""

import json

import pytest
from click.testing import CliRunner

from bench.capacity import LENGTHS, SHAPES, main


@pytest.fixture(scope="module")
def printed() -> dict[str, dict[str, dict[str, float]]]:
    done = CliRunner().invoke(main, ["--json"], catch_exceptions=False)
    found: dict[str, dict[str, dict[str, float]]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("tokens", "at_least"), [("1024", 2.5), ("4096", 3.7), ("16384", 4.3), ("65536", 4.5)]
)
def test_short_sequences_gain_almost_as_much(
    printed: dict[str, dict[str, dict[str, float]]], tokens: str, at_least: float
) -> None:
    ours = printed["llama-3.1-8b"]
    assert ours["kvarn_k4v2_g128"][tokens] >= at_least
    assert ours["fp8"][tokens] == pytest.approx(2, abs=0.01)


def test_every_model_has_every_length(
    printed: dict[str, dict[str, dict[str, float]]],
) -> None:
    assert list(printed) == [shape.stem for shape in SHAPES]
    lengths = {tuple(row) for model in printed.values() for row in model.values()}
    assert lengths == {tuple(map(str, LENGTHS))}


def test_the_table_is_readable() -> None:
    done = CliRunner().invoke(main, catch_exceptions=False)
    assert "llama-3.1-8b: times bf16's" in done.stdout
    assert "kvarn_k4v2_g128" in done.stdout
