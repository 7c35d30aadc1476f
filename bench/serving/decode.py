"""Time of a step of decoding, by sequences and context."""

from typing import Any

from bench.serving.engine import Engine, UnmeasuredError
from bench.serving.scenario import STEPS, Cell

RUNS = 4
LONG_SECONDS = 6.0
"""Runs of the steps that last longer in all are enough: short ones are most easily disturbed."""


async def measure(engine: Engine, cell: Cell, *, prefill: bool) -> dict[str, Any]:
    """A cell's figures: milliseconds of a step, or why there are none.

    With `prefill`, the prompts are computed, and the step is measured on presumed ones as well:
    the two must agree, for that is what the other cells rest on.
    """
    about = {"sequences": cell.sequences, "context": cell.context}
    try:
        _check_room(engine, cell)
        found = await _computed(engine, cell) if prefill else {}
        presumed = await _step_ms(engine, cell, engine.prompts(cell.sequences, cell.context + 1))
    except UnmeasuredError as error:
        return {**about, "skipped": str(error)}
    finally:
        await engine.forget()
    if prefill:
        return {**about, **found, "ms_presumed": presumed}
    return {**about, "ms": presumed}


def _check_room(engine: Engine, cell: Cell) -> None:
    needed = cell.sequences * cell.tokens
    if cell.sequences > engine.most_sequences:
        raise UnmeasuredError(f"more than {engine.most_sequences} sequences at once")
    if needed > engine.cache_tokens:
        raise UnmeasuredError(f"{needed:,} tokens where the cache holds {engine.cache_tokens:,}")


async def _computed(engine: Engine, cell: Cell) -> dict[str, Any]:
    """Figures on prompts that were really computed; the cache is empty again afterwards."""
    prompts = engine.prompts(cell.sequences, cell.context + 1)
    seconds, _ = await engine.together(prompts, 1)
    found = {
        "ms": await _step_ms(engine, cell, prompts, presumed=False),
        "prefill_tokens_per_second": round(cell.sequences * cell.context / seconds, 1),
    }
    await engine.forget()
    return found


async def _step_ms(
    engine: Engine, cell: Cell, prompts: list[list[int]], *, presumed: bool = True
) -> float:
    """Milliseconds of a step: what the steps after the first token add, the best of some runs."""
    first = [await _hits(engine, cell, prompts, 1, presumed=presumed) for _ in range(RUNS)]
    runs: list[float] = []
    while len(runs) < RUNS and sum(runs) < LONG_SECONDS:
        runs.append(await _hits(engine, cell, prompts, 1 + STEPS, presumed=presumed))
    return round((min(runs) - min(first)) / STEPS * 1e3, 3)


async def _hits(
    engine: Engine, cell: Cell, prompts: list[list[int]], tokens: int, *, presumed: bool
) -> float:
    """Seconds of requests that find their prompts in the cache.

    Raises:
        UnmeasuredError: they did not, or not all could stay.
    """
    before = engine.meter.window.preemptions
    seconds, outputs = await engine.together(prompts, tokens, presumed=presumed)
    found = min(output.num_cached_tokens or 0 for output in outputs)
    if found <= cell.context - engine.config.cache_config.block_size:
        raise UnmeasuredError(f"only {found:,} tokens of a prompt were found in the cache")
    if engine.meter.window.preemptions > before:
        raise UnmeasuredError("the cache does not hold all sequences at once")
    return seconds
