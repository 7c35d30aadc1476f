"""Which implementation of attention is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import click
import torch

from kvarn.kernels.batch import LayerCache
from kvarn.kernels.triton.arguments import Attention
from kvarn.kernels.triton.attention import attend
from kvarn.kernels.triton.step import Step

Choice = Literal["auto", "triton", "cuda"]

SingleTokens = Callable[[Step, LayerCache, Attention], bool]
"""Attends the segments of one token and says that it did, or does nothing."""


class Attend(Protocol):
    """Attention of a step, complete tiles stored and tails not yet written."""

    def __call__(
        self, step: Step, cache: LayerCache, attention: Attention, *, cut: Any = None
    ) -> None:
        """Attend, Triton's kernels in their own cut if there is none."""


@dataclass(frozen=True)
class Implementation:
    """Attention of ours.

    Attributes:
        attend: does it.
        single_tokens: what does it in CUDA C++ for sequences of one new token; None without.
    """

    attend: Attend
    single_tokens: SingleTokens | None = None

    def ran(self, step: Step, cache: LayerCache, attention: Attention) -> str:
        """Whose kernels attend a decode step; attends it."""
        in_cuda = self.single_tokens is not None and self.single_tokens(step, cache, attention)
        return "cuda" if in_cuda else "triton"


TRITON = Implementation(attend)


def chosen(name: Choice) -> Implementation:
    """An implementation; `auto` takes what the engine takes on this device.

    Raises:
        click.ClickException: there is no such implementation here.
    """
    single_tokens = None if name == "triton" else _in_cuda()
    if name == "cuda" and single_tokens is None:
        raise click.ClickException("the CUDA kernels do not run here; use --kernels triton")
    if single_tokens is None:
        return TRITON
    options: dict[str, Any] = {"single_tokens": single_tokens}
    return Implementation(partial(attend, **options), single_tokens)


def _in_cuda() -> SingleTokens | None:
    """The kernels in CUDA C++, where they run."""
    parts = ("kvarn.kernels.cuda", "cuda")
    if not torch.cuda.is_available() or any(find_spec(part) is None for part in parts):
        return None
    kernels = import_module("kvarn.kernels.cuda")
    if torch.cuda.get_device_capability() < kernels.OLDEST:
        return None
    single_tokens: SingleTokens = kernels.attend_single_tokens
    return single_tokens
