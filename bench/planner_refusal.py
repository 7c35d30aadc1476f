"""What a person can put right in a benchmark of the planner: one sentence, exit status 2."""

from collections.abc import Iterator
from contextlib import contextmanager

from hack.errors import Refusal
from kvarn.planner import PlannerError


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what the planner refuses into a `Refusal`."""
    try:
        yield
    except PlannerError as error:
        raise Refusal(error.message) from error
