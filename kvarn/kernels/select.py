"""Which implementation of the operations serves a device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

from kvarn.format.layout import TileLayout
from kvarn.kernels import plain
from kvarn.kernels.batch import Batch
from kvarn.kernels.library import Prompts


@dataclass(frozen=True)
class Kernels:
    """An implementation.

    Attributes:
        name: for logs.
        prepare: makes of a batch what all its layers share.
        attend_and_store: a layer's work; takes what `prepare` made, and the layer.
        reserve: takes the memory that the work needs beside its arguments, for so many queries
            ``[tokens, Hq, D]``, so that whoever measures memory sees it; and compiles all that
            steps of at most so many tokens and sequences launch, for so many query heads of a KV
            head and a soft cap.
        captures: whether a step of single tokens may be captured in a CUDA graph.
    """

    name: str
    prepare: Callable[[Batch], Any]
    attend_and_store: Callable[..., None]
    reserve: Callable[..., None]
    captures: bool


def kernels_for(
    device_type: str, *, batch_invariant: bool = False, prompts: Prompts | None = None
) -> Kernels:
    """The implementation for a type of device.

    Args:
        device_type: as torch names it; anything but a CPU is taken for a GPU.
        batch_invariant: make a query's result independent of the batch it is in, bit for bit.
            Without a GPU it always is.
        prompts: a library that attends prompts, unless results must not depend on the batch.
    """
    if device_type == "cpu":
        return Kernels("PyTorch", plain.prepare, plain.attend_and_store, _nothing, captures=False)
    triton = import_module("kvarn.kernels.triton")  # the library is there on GPU machines alone
    cuda = cuda_kernels()
    library = None if batch_invariant else prompts

    attend = partial(
        triton.attend_and_store,
        batch_invariant=batch_invariant,
        store=cuda and cuda.store_tiles,
        # The pieces that it cuts work into depend on the batch.
        single_tokens=None if batch_invariant else cuda and cuda.attend_single_tokens,
        prompts=library,
    )
    rehearse_once = cache(partial(triton.rehearse, attend))

    def reserve(
        layout: TileLayout,
        query: torch.Tensor,
        *,
        group: int,
        soft_cap: float = 0.0,
        sequences: int = 1,
    ) -> None:
        dense = library is not None and library(layout.head_dim) is not None
        size_bytes = triton.scratch_bytes(layout, query, group=group, dense=dense)
        triton.scratch(query.device).reserve(size_bytes)
        if not triton.INTERPRETED.value:  # else there is nothing to compile
            layer = triton.Layer(
                layout=layout,
                model=query.dtype,
                device=query.device,
                heads=query.shape[1] // group,
                group=group,
                soft_cap=soft_cap,
                tokens=len(query),
                sequences=sequences,
            )
            rehearse_once(layer)

    name = "CUDA C++ and Triton" if cuda else "Triton"
    return Kernels(name, triton.prepare, attend, reserve, captures=True)


def cuda_kernels() -> ModuleType | None:
    """The kernels in CUDA C++, where they run."""
    if not torch.cuda.is_available() or not find_spec("cuda"):
        return None
    cuda = import_module("kvarn.kernels.cuda")
    capability = torch.cuda.get_device_capability()
    return cuda if capability >= cuda.OLDEST and cuda.is_known(capability) else None


def _nothing(_layout: TileLayout, _query: torch.Tensor, **_options: object) -> None:
    """Plain PyTorch takes its memory as it goes."""
