"""What to change where nothing fits: a limit, the context, a larger device, more devices."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from kvarn.planner.accelerators import GIB, Accelerator, known_gpus
from kvarn.planner.camel import camel
from kvarn.planner.draft import Misfit
from kvarn.planner.problem import Problem

COUNTS = ((2, 1), (4, 1), (8, 1), (8, 2), (8, 4))
"""Devices that share a layer, and stages of layers."""
FREE = ("max_sequences", "max_batched_tokens", "utilization_percent")
"""Limits that the planner sets well where they are not fixed by hand."""
MORE = 1.05
"""How many times the memory makes a device worth naming as a larger one."""


def remedies(problem: Problem, misfit: Misfit, fits: Callable[[Problem], bool]) -> list[str]:
    """What would help; `fits` says whether a changed problem has a plan."""
    changed, larger = [*_freed(problem, fits), *_shorter(misfit)], _larger(problem, fits)
    return [*changed, *larger, *_more(problem, fits)] or _both(problem, fits)


def _freed(problem: Problem, fits: Callable[[Problem], bool]) -> list[str]:
    """The limits fixed by hand without which it fits: one of them, or all together."""
    fixed = [name for name in FREE if getattr(problem.limits, name)]
    for names in (*([name] for name in fixed), fixed):
        limits = replace(problem.limits, **dict.fromkeys(names))
        if names and fits(replace(problem, limits=limits)):
            return [f"leave {' and '.join(map(camel, names))} to the planner"]
    return []


def _shorter(misfit: Misfit) -> Iterator[str]:
    if misfit.longest_tokens:
        yield f"shorten the context to {misfit.longest_tokens:,} tokens"


def _larger(problem: Problem, fits: Callable[[Problem], bool]) -> list[str]:
    """The smallest larger device that does."""
    device = problem.accelerator
    if device.is_cpu:
        sizes = [replace(device, memory_bytes=device.memory_bytes << step) for step in range(1, 8)]
    else:
        sizes = [
            replace(gpu, count=device.count, stages=device.stages) for gpu in _larger_gpus(device)
        ]
    return _first(sizes, problem, fits)


def _more(problem: Problem, fits: Callable[[Problem], bool]) -> list[str]:
    """The fewest devices of the same kind that do."""
    return _first(_counts(problem, problem.accelerator), problem, fits)


def _both(problem: Problem, fits: Callable[[Problem], bool]) -> list[str]:
    """The fewest of the smallest larger devices that do."""
    larger = _larger_gpus(problem.accelerator)
    return _first([some for gpu in larger for some in _counts(problem, gpu)], problem, fits)


def _first(
    devices: Iterable[Accelerator], problem: Problem, fits: Callable[[Problem], bool]
) -> list[str]:
    for device in devices:
        if fits(replace(problem, accelerator=device)):
            return [_name(device)]
    return []


def _larger_gpus(device: Accelerator) -> list[Accelerator]:
    """Known GPUs with clearly more memory and not much less bandwidth, the smallest first."""
    larger = [
        gpu
        for gpu in known_gpus()
        if gpu.memory_bytes > MORE * device.memory_bytes
        and 2 * gpu.bandwidth_bytes >= device.bandwidth_bytes
    ]
    return sorted(larger, key=lambda gpu: gpu.memory_bytes)


def _counts(problem: Problem, device: Accelerator) -> list[Accelerator]:
    """More of `device` than the problem has, as the model divides."""
    if device.is_cpu or device.is_instance:
        return []
    fewest, shape = problem.accelerator.devices, problem.shape
    more = [replace(device, count=count, stages=stages) for count, stages in COUNTS]
    return [some for some in more if some.devices > fewest and not shape.undivided(some)]


def _name(device: Accelerator) -> str:
    if device.is_cpu:
        return f"give the container {device.memory_bytes / GIB:g} GiB of memory"
    count = f"{device.devices} of " if device.devices > 1 else ""
    stages = f" in {device.stages} stages" if device.stages > 1 else ""
    return f"use {count}{device.product}{stages}"
