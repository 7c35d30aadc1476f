"""Which implementation of attention is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import click

from kvarn.kernels.batch import LayerCache
from kvarn.kernels.library import Prompts
from kvarn.kernels.select import cuda_kernels
from kvarn.kernels.triton.arguments import Attention, SingleTokens, Store
from kvarn.kernels.triton.attention import attend, attend_and_store
from kvarn.kernels.triton.step import Step

Choice = Literal["auto", "triton", "cuda"]


class Attend(Protocol):
    """Attention of a step, complete tiles stored and tails not yet written."""

    def __call__(
        self, step: Step, cache: LayerCache, attention: Attention, *, cut: Any = None
    ) -> object:
        """Attend, Triton's kernels in their own cut if there is none; true if tails are written."""


@dataclass(frozen=True)
class Implementation:
    """Attention of ours.

    Attributes:
        work: does all that a layer does in a step, as in the engine.
        attend: does attention alone.
        single_tokens: what does it in CUDA C++ for sequences of one new token; None without.
        store: what stores complete tiles in CUDA C++; None without.
    """

    work: Callable[..., None]
    attend: Attend
    single_tokens: SingleTokens | None = None
    store: Store | None = None

    def ran(self, step: Step, cache: LayerCache, attention: Attention) -> str:
        """Whose kernels attend a decode step; attends it."""
        in_cuda = self.single_tokens is not None and self.single_tokens(step, cache, attention)
        return "cuda" if in_cuda else "triton"


TRITON = Implementation(attend_and_store, attend)


def chosen(name: Choice) -> Implementation:
    """An implementation; `auto` takes what the engine takes on this device.

    Raises:
        click.ClickException: there is no such implementation here.
    """
    kernels = None if name == "triton" else cuda_kernels()
    prompts = _library() if name == "auto" else None
    if name == "cuda" and kernels is None:
        raise click.ClickException("the CUDA kernels do not run here; use --kernels triton")
    single_tokens = kernels.attend_single_tokens if kernels else None
    store = kernels.store_tiles if kernels else None
    return Implementation(
        work=partial(attend_and_store, store=store, single_tokens=single_tokens, prompts=prompts),
        attend=partial(attend, single_tokens=single_tokens, prompts=prompts),
        single_tokens=single_tokens,
        store=store,
    )


def _library() -> Prompts | None:
    """What attends prompts in the engine, where vLLM is installed."""
    if find_spec("vllm") is None:
        return None
    library: Prompts = import_module("kvarn.engine.flash").flash_attention
    return library
