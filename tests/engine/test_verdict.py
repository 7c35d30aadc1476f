"""What the comparison on a GPU calls equal."""

import pytest

from bench.exactness.verdict import Answer, compare

ONE = Answer([3, 1, 4], [-0.5, -1.0, -2.0])


def test_the_same_answers_are_equal() -> None:
    verdict = compare("itself", [ONE, ONE], [ONE, ONE])
    assert (verdict.tokens, verdict.differing, verdict.largest) == (6, 0, 0.0)
    assert verdict.holds


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Answer([3, 1, 5], ONE.surety), id="a-token"),
        pytest.param(Answer(ONE.tokens, [-0.5, -1.0, -2.0000001]), id="a-bit"),
    ],
)
def test_one_difference_is_enough(other: Answer) -> None:
    assert not compare("another", [ONE, ONE], [ONE, other]).holds


def test_so_much_may_be_allowed() -> None:
    near = Answer(ONE.tokens, [-0.5, -1.0, -2.0005])
    assert compare("near", [ONE], [near], allowed=1e-3).holds


def test_as_many_tokens_must_be_there() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare("half", [ONE], [Answer([3], [-0.5])])
