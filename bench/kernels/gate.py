"""The gate: nothing is timed before all of it is compared with float64 or the reference.

Most of a check is Triton's compiler, so checks run side by side, each in a process of its own. What
they compile is in Triton's cache when times are taken. A rival's failure on the GPU ends with its
process.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Literal

import click
import torch

from bench.kernels import store
from bench.kernels.attention import RIVALS
from bench.kernels.implementation import Choice, chosen
from bench.kernels.layer import Layer
from bench.kernels.rival import Rival, largest_error
from bench.kernels.shape import Shape, Stage
from kvarn.format.layout import FORMATS

Kind = Literal["attention", "store", "rival"]

LIMITS: dict[Kind, float] = {"attention": 4e-3, "store": 2e-3, "rival": 6e-2}
"""Largest errors. Attention: relative; bfloat16 results alone make 1.7e-3, fp8 weights 2.5e-2."""

Place = tuple[Stage, int, int]
"""Where a rival is refused: stage, query heads of a KV head, head dimension."""


@dataclass(frozen=True)
class Check:
    """A format, ours or a rival's, in short steps of one kind.

    Attributes:
        kind: what is checked.
        name: of the format.
        shapes: of the steps.
        kernels: the implementation of our attention.
    """

    kind: Kind
    name: str
    shapes: tuple[Shape, ...]
    kernels: Choice

    def error(self) -> float:
        """The largest error.

        Raises:
            RivalError: a rival does not run.
        """
        torch.manual_seed(0)
        return max(self._error(shape) for shape in self.shapes)

    def _error(self, shape: Shape) -> float:
        if self.kind == "rival":
            return largest_error(rival_named(self.name), shape)
        implementation = chosen(self.kernels)
        if self.kind == "store":
            return store.error(shape, FORMATS[self.name], implementation)
        return Layer(shape, FORMATS[self.name], implementation).error()

    @property
    def place(self) -> Place:
        """Of its shapes."""
        return place(self.shapes[0])

    def __str__(self) -> str:
        shape = self.shapes[0]
        what = "store" if self.kind == "store" else shape.stage
        return f"{what} g{shape.group} d{shape.head_dim} {self.name}"


def place(shape: Shape) -> Place:
    """Where a shape belongs."""
    return shape.stage, shape.group, shape.head_dim


def rival_named(name: str) -> type[Rival]:
    """A rival by its format."""
    return next(rival for rival in RIVALS if rival.name == name)


def checks(
    attention: Iterable[Shape],
    stores: Iterable[Shape],
    names: Sequence[str],
    *,
    kernels: Choice,
    rivals: Sequence[type[Rival]],
) -> list[Check]:
    """What the shapes need: one check for each format and place, with all its short shapes."""
    groups: defaultdict[Place, set[Shape]] = defaultdict(set)
    stored: defaultdict[Place, set[Shape]] = defaultdict(set)
    for shape in attention:
        groups[place(shape)].add(shape.small())
    for shape in stores:
        groups[place(shape)].add(shape.small())
        stored[place(shape)].add(store.small(shape))

    def all_of(kind: Kind, found: dict[Place, set[Shape]], formats: Sequence[str]) -> list[Check]:
        return [
            Check(kind, name, tuple(sorted(shapes, key=repr)), kernels)
            for shapes in found.values()
            for name in formats
        ]

    return [
        *all_of("rival", groups, [rival.name for rival in rivals]),
        *all_of("attention", groups, names),
        *all_of("store", stored, names),
    ]


def passed(found: Sequence[Check]) -> dict[tuple[str, Place], str]:
    """Run checks, and say how each went.

    Returns:
        why rivals are refused, by name and place.

    Raises:
        click.ClickException: one of ours is wrong.
    """
    refused: dict[tuple[str, Place], str] = {}
    workers = min(os.cpu_count() or 1, len(found))
    with ProcessPoolExecutor(workers, get_context("spawn"), max_tasks_per_child=1) as pool:
        running = {pool.submit(Check.error, check): check for check in found}
        for future in as_completed(running):
            check = running[future]
            try:
                error = future.result()
                reason = None if error < LIMITS[check.kind] else f"wrong: error {error:.1e}"
            except Exception as problem:  # of another process: whatever it is, it is told
                error, reason = None, str(problem) or type(problem).__name__
            print(f"{check}: {reason or f'error {error:.1e}'}", flush=True)
            if reason and check.kind == "rival":
                refused[check.name, check.place] = reason
            elif reason:
                pool.shutdown(wait=False, cancel_futures=True)
                raise click.ClickException(f"{check} is {reason}. Nothing is timed")
    return refused
