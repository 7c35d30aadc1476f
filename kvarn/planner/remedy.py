"""What to change where nothing fits: a shorter context, a larger device, more devices."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from kvarn.planner.accelerators import GIB, Accelerator, known_gpus
from kvarn.planner.draft import Misfit, Problem

COUNTS = (2, 4, 8)


def remedies(problem: Problem, misfit: Misfit, fits: Callable[[Problem], bool]) -> str:
    """What would help, as a clause with `or`; `fits` says whether a changed problem has a plan."""
    found = [*_shorter(misfit), *_larger(problem, fits), *_more(problem, fits)]
    return " or ".join(found) or "use a smaller model"


def _shorter(misfit: Misfit) -> Iterator[str]:
    if misfit.longest_tokens:
        yield f"shorten the context to {misfit.longest_tokens:,} tokens"


def _larger(problem: Problem, fits: Callable[[Problem], bool]) -> Iterator[str]:
    """The smallest larger device that does."""
    device = problem.accelerator
    if device.is_cpu:
        sizes = [replace(device, memory_bytes=device.memory_bytes << step) for step in range(1, 8)]
    else:
        sizes = [
            replace(gpu, count=device.count)
            for gpu in reversed(known_gpus())
            if gpu.memory_bytes > device.memory_bytes
        ]
    for larger in sizes:
        if fits(replace(problem, accelerator=larger)):
            yield _name(larger)
            return


def _more(problem: Problem, fits: Callable[[Problem], bool]) -> Iterator[str]:
    """The fewest devices of the same kind that do."""
    device, heads = problem.accelerator, problem.shape.attention_heads
    for count in COUNTS:
        if device.is_cpu or count <= device.count or heads % count:
            continue
        if fits(replace(problem, accelerator=replace(device, count=count))):
            yield f"use {count} {device.product}"
            return


def _name(device: Accelerator) -> str:
    if device.is_cpu:
        return f"give the container {device.memory_bytes / GIB:g} GiB of memory"
    count = f"{device.count} " if device.count > 1 else ""
    return f"use {count}{device.product}"
