"""Which implementation of the operations serves a device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
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
        describe: names those that run, for logs. What depends on the model is known once memory
            was reserved.
        prepare: makes of a batch what all its layers share.
        attend_and_store: a layer's work; takes what `prepare` made, and the layer.
        reserve: takes the memory that the work needs beside its arguments, for so many queries
            ``[tokens, Hq, D]``, so that whoever measures memory sees it; and compiles all that
            steps of at most so many tokens and sequences launch, for so many query heads of a KV
            head and a soft cap.
        captures: whether a step of single tokens may be captured in a CUDA graph.
    """

    describe: Callable[[], str]
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
        batch_invariant: make a query's result independent of the batch it is in, bit for bit; on
            GPUs alone. On a CPU a query alone is rounded otherwise than one of a longer run.
        prompts: a library that attends prompts, unless results must not depend on the batch.
    """
    if device_type == "cpu":
        return Kernels(
            lambda: "PyTorch", plain.prepare, plain.attend_and_store, _nothing, captures=False
        )
    triton = import_module("kvarn.kernels.triton")  # the library is there on GPU machines alone
    store, single_tokens = _cuda_operations(batch_invariant=batch_invariant)
    library = None if batch_invariant else prompts

    attend = partial(
        triton.attend_and_store,
        batch_invariant=batch_invariant,
        store=store,
        single_tokens=single_tokens,
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

    describe = partial(_described, store, single_tokens)
    return Kernels(describe, triton.prepare, attend, reserve, captures=True)


def _cuda_operations(*, batch_invariant: bool) -> tuple[Any, Any]:
    """What stores tiles, and what attends single tokens, in CUDA C++, where they run."""
    cuda = cuda_kernels()
    if cuda is None:
        return None, None
    operation = import_module("kvarn.kernels.cuda.program").Operation
    # The pieces that the latter cuts work into depend on the batch.
    single_tokens = None if batch_invariant else operation(cuda.attend_single_tokens)
    return operation(cuda.store_tiles), single_tokens


def _described(store: Any, single_tokens: Any) -> str:
    """Which kernels run, as far as these operations show."""
    worked = [operation.has_worked for operation in (store, single_tokens) if operation]
    if worked and all(each is None for each in worked):
        return "CUDA C++ where it has programs, and Triton"
    if single_tokens and single_tokens.has_worked:
        return "CUDA C++ and Triton"
    if store and store.has_worked:
        return "Triton, and CUDA C++ for complete tiles"
    return "Triton"


def cuda_kernels() -> ModuleType | None:
    """The kernels in CUDA C++, where they run.

    Where a GPU is new enough and they do not, a warning says why.
    """
    if not torch.cuda.is_available():
        return None
    cuda = import_module("kvarn.kernels.cuda")
    capability = torch.cuda.get_device_capability()
    return cuda if capability >= cuda.OLDEST and cuda.is_known(capability) else None


def _nothing(_layout: TileLayout, _query: torch.Tensor, **_options: object) -> None:
    """Plain PyTorch takes its memory as it goes."""
