"""One model and format, measured in this process: `python -m bench.serving.child`.

Reads the scenario from standard input. Each figure is printed as soon as it is known, on a line
with a mark among what vLLM prints.
"""

import asyncio
import json
import math
import platform
import sys
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import triton
import vllm
from vllm.platforms import current_platform

import kvarn
from bench.serving import decode, load
from bench.serving.engine import Engine, started
from bench.serving.process import MARK
from bench.serving.scenario import Scenario

CHECKED_PROMPTS, CHECKED_TOKENS = 8, 32
WARM_PROMPTS, WARM_TOKENS = 16, 16
PROMPT_TOKENS = 200


def environment() -> dict[str, Any]:
    """Device and versions that the figures hold for."""
    return {
        "device": current_platform.get_device_name() or platform.processor(),
        "host": _host(),
        "kvarn": kvarn.__version__,
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
    }


def _host() -> str:
    """Tells machines apart, and their starts, without a name."""
    return sha256(Path("/proc/sys/kernel/random/boot_id").read_bytes()).hexdigest()[:8]


async def measured(
    model: Path, cache_format: str, scenario: Scenario
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Kind and figures of each piece, as it is done."""
    began = time.monotonic()
    yield "environment", environment()
    async with started(model, cache_format, scenario) as engine:
        yield "engine", {**engine.facts(), "start_seconds": round(time.monotonic() - began, 1)}
        await engine.together(engine.prompts(WARM_PROMPTS, PROMPT_TOKENS), WARM_TOKENS)
        for index, cell in enumerate(scenario.cells):
            prefill = scenario.prefill and not index
            yield "cell", await decode.measure(engine, cell, prefill=prefill)
        for workload in scenario.workloads:
            yield "workload", await load.measure(engine, workload, scenario.seconds)
        yield "check", await check(engine)
        # Before the engine ends: to end it in good order takes longer than to kill it.
        yield "end", {"seconds": round(time.monotonic() - began, 1)}


async def check(engine: Engine) -> dict[str, Any]:
    """Whether the log-probabilities of a few answers are finite; `ask` counts their tokens."""
    asked = engine.prompts(CHECKED_PROMPTS, PROMPT_TOKENS)
    outputs = await asyncio.gather(
        *(engine.ask(each, CHECKED_TOKENS, logprobs=1) for each in asked)
    )
    sure = [
        place[token].logprob
        for output in (each.outputs[0] for each in outputs)
        for place, token in zip(output.logprobs, output.token_ids, strict=True)
    ]
    return {"tokens": len(sure), "finite": all(map(math.isfinite, sure))}


async def main(given: dict[str, Any]) -> None:
    """Measure and print."""
    scenario = Scenario.from_dict(given["scenario"])
    async for kind, figures in measured(Path(given["model"]), given["format"], scenario):
        print(MARK + json.dumps({"kind": kind, **figures}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.load(sys.stdin)))
