"""Why the plan is as it is: one line for each decision."""

from collections.abc import Mapping

from kvarn.planner.draft import UNSUPPORTED, Draft, Misfit
from kvarn.planner.formats import FORMATS
from kvarn.planner.problem import Problem
from kvarn.planner.result import Alternative, Choice

BY_HAND = "as asked"


def format_reason(
    problem: Problem, draft: Draft, outcomes: Mapping[str, Draft | Misfit], *, by_hand: bool
) -> str:
    """Why this format, one sentence with the numbers."""
    load = problem.workload
    serves = (
        f"{draft.format.name} serves {draft.served:,} of {load.concurrency:,} requests of"
        f" {load.request_tokens:,} tokens at once{_speed(draft)}"
    )
    if by_hand:
        return f"{serves}; asked for by name."
    drafts = [other for other in outcomes.values() if isinstance(other, Draft)]
    others = [
        f"{other.format.name} {other.served:,}{_speed(other)}"
        for other in drafts
        if other is not draft
    ]
    beaten = "; ".join(others) or "no other format fits"
    words = "a smaller cache would gain nothing: " if draft is drafts[0] and others else ""
    return f"{serves}; {words}{beaten}.{_no_tiles(draft, outcomes)}"


def _speed(draft: Draft) -> str:
    return f" at {draft.tokens_per_second:,} tokens/s" if draft.tokens_per_second else ""


def _no_tiles(draft: Draft, outcomes: Mapping[str, Draft | Misfit]) -> str:
    """Why tiles were not chosen, if they were not: a sentence, or nothing."""
    tiled = [outcomes[name] for name, known in FORMATS.items() if known.tiled]
    if draft.format.tiled:
        return ""
    for outcome in tiled:
        if isinstance(outcome, Misfit) and outcome.reason == UNSUPPORTED:
            return f" No tiles: {outcome.message}."
        if isinstance(outcome, Draft) and outcome.requests < draft.requests:
            return " Tiles lose here: at this length a request's open tile outweighs its savings."
    return ""


def choices(problem: Problem, draft: Draft) -> tuple[Choice, ...]:
    """Every limit with its reason."""
    fixed, batch = problem.limits, draft.batch
    return (
        Choice(
            "maxModelTokens",
            f"{draft.max_model_tokens}",
            BY_HAND if fixed.max_model_tokens else _model_tokens(problem, draft),
        ),
        Choice(
            "maxSequences",
            f"{batch.max_sequences}",
            BY_HAND if fixed.max_sequences else _sequences(draft),
        ),
        Choice(
            "maxBatchedTokens",
            f"{batch.max_batched_tokens}",
            BY_HAND if fixed.max_batched_tokens else _batched_tokens(problem, draft),
        ),
        Choice(
            "utilizationPercent",
            f"{problem.utilization_percent}",
            BY_HAND if fixed.utilization_percent else _utilization(problem),
        ),
    )


def alternatives(chosen: Draft, outcomes: Mapping[str, Draft | Misfit]) -> tuple[Alternative, ...]:
    """All formats side by side."""
    return tuple(_alternative(name, outcome, chosen) for name, outcome in outcomes.items())


def _alternative(name: str, outcome: Draft | Misfit, chosen: Draft) -> Alternative:
    if isinstance(outcome, Misfit):
        return Alternative(name, 0, 0, 0, outcome.message)
    ratio = outcome.cache_tokens / chosen.cache_tokens
    note = "" if outcome is chosen else f"{ratio:.2f} times the tokens"
    return Alternative(
        name, outcome.cache_tokens, outcome.requests, outcome.tokens_per_second, note
    )


def _utilization(problem: Problem) -> str:
    if problem.accelerator.is_cpu:
        return "all of the container's memory"
    if points := problem.correction.utilization_points:
        return f"{points} less than the default, because the device ran full"
    if problem.raised:
        return f"the default, {problem.version.utilization_percent}, is too little"
    return "the default of this engine version"


def _model_tokens(problem: Problem, draft: Draft) -> str:
    if draft.max_model_tokens == problem.shape.max_position_tokens:
        return "all that the model was trained for; one such request fits"
    return "the longest request that the cache holds"


def _sequences(draft: Draft) -> str:
    if draft.batch.max_sequences == draft.requests:
        return "as many requests of the workload as the cache holds"
    return f"the cache holds {draft.requests:,} requests of the workload; more at once wait"


def _batched_tokens(problem: Problem, draft: Draft) -> str:
    if draft.batch.max_batched_tokens == problem.default_batched_tokens:
        return "vLLM's default for this device"
    return "a wider batch's activations would leave less to the cache"
