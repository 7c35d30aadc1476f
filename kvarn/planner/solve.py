"""The solver: limits and cache format for a model, an accelerator and a workload."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kvarn.planner.accelerators import Accelerator
from kvarn.planner.correction import UNCORRECTED, Correction
from kvarn.planner.draft import UNSUPPORTED, Draft, Misfit, attempt, fits
from kvarn.planner.errors import PlanError, RequestError
from kvarn.planner.explain import alternatives, choices, format_reason
from kvarn.planner.formats import FORMATS
from kvarn.planner.memory import AccountLine
from kvarn.planner.problem import Problem
from kvarn.planner.remedy import remedies
from kvarn.planner.result import Plan
from kvarn.planner.shape import ModelShape
from kvarn.planner.version import DEFAULT_VERSION, EngineVersion
from kvarn.planner.workload import Limits, Workload

AUTO = "auto"
FASTER = 1.01
"""A less precise format must serve, or make tokens, so many times as much as a more precise one:
the roofline is 0.8 % off in the median, and a choice may cost 2 %."""
PLAINEST = next(iter(FORMATS))
"""The format that every GPU reads."""
UNKNOWN = "the GPU's compute capability is not known; ask for the format by name"
GAIN = 1.1
"""The same for requests where the device's speed is not known."""


def plan(
    shape: ModelShape,
    accelerator: Accelerator,
    *,
    workload: Workload | None = None,
    limits: Limits | None = None,
    cache_format: str = AUTO,
    engine_version: str = DEFAULT_VERSION,
    correction: Correction = UNCORRECTED,
) -> Plan:
    """The plan for `shape` on `accelerator`.

    Args:
        shape: what to serve.
        accelerator: what to serve it on.
        workload: what the limits are solved for; the default is cut to the model's context.
        limits: what is fixed by hand.
        cache_format: a name in `FORMATS`, or `auto`.
        engine_version: vLLM's version, e.g. `0.33.0`.
        correction: what earlier starts taught.

    Raises:
        RequestError: the format or version is unknown, or the workload exceeds the model.
        PlanError: the format cannot serve the model, or nothing fits.
    """
    problem = _problem(shape, accelerator, workload, limits or Limits(), engine_version)
    problem = replace(problem, correction=correction)
    if cache_format not in (AUTO, *FORMATS):
        raise RequestError(
            "UnknownFormat",
            f"No cache format is called {cache_format}; use {AUTO}, {', '.join(FORMATS)}.",
        )
    asked = list(FORMATS) if cache_format == AUTO else [cache_format]
    outcomes = _outcomes(problem, asked)
    if problem.may_raise and not _drafts(asked, outcomes):
        raised = replace(problem, raised=True)
        if _drafts(asked, again := _outcomes(raised, asked)):
            problem, outcomes = raised, again
    chosen = _choose(asked, outcomes, problem)
    return _plan(problem, chosen, outcomes, by_hand=cache_format != AUTO)


def _outcomes(problem: Problem, asked: Sequence[str]) -> dict[str, Draft | Misfit]:
    return {name: _outcome(problem, name, asked) for name in FORMATS}


def _outcome(problem: Problem, name: str, asked: Sequence[str]) -> Draft | Misfit:
    known, device = FORMATS[name], problem.accelerator
    if _may_try(name, asked, device):
        return attempt(problem, known)
    return Misfit(UNSUPPORTED, known.refusal(problem.shape, device, problem.version) or UNKNOWN)


def _may_try(name: str, asked: Sequence[str], device: Accelerator) -> bool:
    """Whether a format may be chosen for a device that may be older than it looks."""
    return name == PLAINEST or asked == [name] or device.is_known


def _drafts(asked: Sequence[str], outcomes: Mapping[str, Draft | Misfit]) -> list[Draft]:
    return [draft for name in asked if isinstance(draft := outcomes[name], Draft)]


def _problem(
    shape: ModelShape,
    accelerator: Accelerator,
    workload: Workload | None,
    limits: Limits,
    engine_version: str,
) -> Problem:
    longest = limits.max_model_tokens or shape.max_position_tokens
    if longest > shape.max_position_tokens:
        raise RequestError(
            "ContextTooLong",
            f"maxTokens is {longest:,}, and the model was trained for"
            f" {shape.max_position_tokens:,}; lower it.",
        )
    if workload and workload.request_tokens > longest:
        raise RequestError(
            "ContextTooLong",
            f"The workload's requests have {workload.request_tokens:,} tokens (promptTokens +"
            f" outputTokens), and the context has {longest:,}; lower one of the two.",
        )
    if undivided := shape.undivided(accelerator):
        numbers = range(1, shape.attention_heads + 1)
        counts = [n for n in numbers if not shape.undivided(replace(accelerator, count=n))]
        raise RequestError("InvalidAccelerator", f"{undivided}; use {_listed(counts)} of them.")
    if accelerator.stages > shape.layers:
        raise RequestError(
            "InvalidAccelerator",
            f"{shape.layers} layers do not make {accelerator.stages} stages; use fewer.",
        )
    if accelerator.is_cpu and limits.utilization_percent:
        raise RequestError(
            "InvalidLimits",
            "utilizationPercent is of a GPU; a CPU server takes what its container has, so leave it"
            " out.",
        )
    problem = Problem(
        shape=shape,
        accelerator=accelerator,
        workload=workload or Workload().within(longest),
        limits=limits,
        version=EngineVersion.parse(engine_version),
    )
    if limits.max_batched_tokens and limits.max_batched_tokens < problem.item_tokens:
        raise RequestError(
            "InvalidLimits",
            f"maxBatchedTokens is {limits.max_batched_tokens:,}, and the model computes an image or"
            f" a film of up to {problem.item_tokens:,} tokens in one step; raise it.",
        )
    return problem


def _listed(counts: Sequence[int]) -> str:
    *most, last = map(str, counts)
    return f"{', '.join(most)} or {last}" if most else last


def _choose(
    asked: Sequence[str], outcomes: Mapping[str, Draft | Misfit], problem: Problem
) -> Draft:
    """Of the formats asked for, the most precise that loses nothing worth having."""
    drafts = _drafts(asked, outcomes)
    if not drafts:
        raise _refused(problem, asked, outcomes)
    best, *others = drafts
    for other in others:
        if _gains(other, best):
            best = other
    return best


def _gains(other: Draft, best: Draft) -> bool:
    """Whether a less precise format serves clearly more at once, or as many clearly faster."""
    if not (other.tokens_per_second and best.tokens_per_second):
        return other.served > GAIN * best.served
    speed = other.tokens_per_second / best.tokens_per_second
    more = other.served > FASTER * best.served and speed * FASTER >= 1
    return more or (other.served >= best.served and speed > FASTER)


def _refused(
    problem: Problem, asked: Sequence[str], outcomes: Mapping[str, Draft | Misfit]
) -> PlanError:
    """Why none of the formats asked for will do, and what would."""
    misfits = [misfit for name in asked if isinstance(misfit := outcomes[name], Misfit)]
    sizes = [misfit for misfit in misfits if misfit.reason != UNSUPPORTED]
    if not sizes:
        return _unsupported(asked, outcomes)

    def fit(changed: Problem) -> bool:
        device = changed.accelerator
        tried = (FORMATS[name] for name in asked if _may_try(name, asked, device))
        return any(fits(changed, known) for known in tried)

    smallest = [name for name, outcome in outcomes.items() if isinstance(outcome, Draft)][-1:]
    found = [f"use format {name}" for name in smallest] + remedies(problem, sizes[-1], fit)
    help_ = " or ".join(found) or "use a smaller model"
    return PlanError(sizes[-1].reason, f"{sizes[-1].message}: {help_}.")


def _unsupported(asked: Sequence[str], outcomes: Mapping[str, Draft | Misfit]) -> PlanError:
    """Why no format that was asked for serves the model, whatever its size."""
    why = next(each.message for name in asked if isinstance(each := outcomes[name], Misfit))
    what = f"{asked[0]} cannot" if len(asked) == 1 else "No cache format can"
    hopeless = all(getattr(each, "reason", "") == UNSUPPORTED for each in outcomes.values())
    help_ = "use another device" if hopeless else "use auto"
    return PlanError(UNSUPPORTED, f"{what} serve the model: {why}; {help_}.")


def _plan(
    problem: Problem,
    draft: Draft,
    outcomes: Mapping[str, Draft | Misfit],
    *,
    by_hand: bool,
) -> Plan:
    return Plan(
        accelerator=problem.accelerator,
        format=draft.format.name,
        kv_cache_dtype=draft.format.engine_dtype(
            problem.shape, problem.accelerator, problem.version
        ),
        reason=format_reason(problem, draft, outcomes, by_hand=by_hand),
        account=_account(problem, draft),
        cache_tokens=draft.cache_tokens,
        cache_blocks=draft.cache_blocks,
        request_blocks=draft.request_blocks,
        max_model_tokens=draft.max_model_tokens,
        max_sequences=draft.batch.max_sequences,
        max_batched_tokens=draft.batch.max_batched_tokens,
        utilization_percent=problem.utilization_percent,
        workload_requests=draft.requests,
        tokens_per_second=draft.tokens_per_second,
        choices=choices(problem, draft),
        alternatives=alternatives(draft, outcomes),
        engine_version=problem.version.name,
    )


def _account(problem: Problem, draft: Draft) -> tuple[AccountLine, ...]:
    total, budget = problem.accelerator.memory_bytes, problem.budget_bytes
    taken = sum(line.size_bytes for line in draft.lines)
    blocks = f"{draft.cache_blocks:,} blocks of {draft.layout.block_bytes:,} bytes"
    return (
        AccountLine("total", total, problem.accelerator.product),
        AccountLine(
            "unused", total - budget, f"beyond {problem.utilization_percent} % utilisation"
        ),
        *draft.lines,
        AccountLine("cache", draft.cache_bytes, blocks),
        AccountLine("left", budget - taken - draft.cache_bytes, "what no limit would let it use"),
    )
