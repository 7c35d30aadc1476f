"""Tiles that a step completes, from the model's keys and values straight into their pages."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch

from kvarn.format import reference
from kvarn.format.layout import TILE_TOKENS, TileLayout
from kvarn.kernels.batch import LayerCache
from kvarn.kernels.cuda.arguments import (
    Pages,
    Rows,
    Segments,
    are_aligned,
    pages_of,
    rows_of,
    segments_of,
)
from kvarn.kernels.cuda.program import binary_of, launch_function, load_functions
from kvarn.kernels.cuda.source import constants_of
from kvarn.kernels.triton.step import Step

MAIN = "store.cu"

BLOCKS = 256
"""Blocks that keep a large GPU busy; in a step of single tokens there are hardly more.

Few of its segments complete a tile, and a block without work still takes its turn."""

LANES = 32
"""Segments of one block, at most."""

_MOST_SLAB = 256
"""Channels that are in shared memory at once, at most."""

_SLAB = 128
"""Channels that are in shared memory at once, where a tile has more."""

_GROUPS = 8
"""Groups of a tile's tokens, each the work of as many threads as there are four channels."""


@dataclass(frozen=True)
class Variant:
    """What a program is compiled for.

    Attributes:
        layout: of the tiles, not raw.
        model: type of the model's activations, bfloat16 or float16.
    """

    layout: TileLayout
    model: torch.dtype

    @property
    def slab(self) -> int:
        """Channels that are in shared memory at once."""
        head_dim = self.layout.head_dim
        return head_dim if head_dim <= _MOST_SLAB else _SLAB

    @property
    def threads(self) -> int:
        """Threads of a block: one for four channels of each group of tokens."""
        return _GROUPS * self.slab // 4

    @property
    def shared_bytes(self) -> int:
        """Size of slab.cuh's `Shared`."""
        head_dim, slab = self.layout.head_dim, self.slab
        first_bank = 8 if self.threads < 256 else 16
        row = (slab + 31 - first_bank) // 32 * 32 + first_bank
        codes = 4 * (head_dim // 4 * (TILE_TOKENS // 4 + 1) + 8)
        results = _GROUPS * slab * (1 if slab == head_dim else 3)
        return 4 * (TILE_TOKENS * (row + 4) + 4 * head_dim + results + codes)

    @property
    def constants(self) -> Mapping[str, int | str]:
        """Preprocessor definitions; offsets are bytes."""
        layout = self.layout
        bits = {"KEY": layout.format.key_bits, "VALUE": layout.format.value_bits}
        steps = {of: reference.RANGE[b] / reference.middle(b) for of, b in bits.items()}
        offsets = {name.upper(): field.offset_bytes for name, field in layout.fields.items()}
        return (
            constants_of(layout, self.model)
            | offsets
            | {
                "KEY_STEP": f"{steps['KEY']!r}f",
                "VALUE_STEP": f"{steps['VALUE']!r}f",
                "PASSES": reference.PASSES,
                "SHARED_BYTES": self.shared_bytes,
                "RESIDENT": 2 if self.slab <= _SLAB and layout.head_dim == self.slab else 1,
            }
        )


class _Arguments(ctypes.Structure):
    """Those of store.cu."""

    _fields_ = (
        ("keys", Rows),
        ("values", Rows),
        ("tail", Pages),
        ("packed", Pages),
        ("segments", Segments),
        ("faults", ctypes.c_void_p),
        ("beside", ctypes.c_int),
    )


class Program(Protocol):
    """A kernel that can be launched."""

    def store(self, arguments: ctypes.Structure, grid: tuple[int, int]) -> None:
        """Launch `store`."""


@dataclass(frozen=True)
class _Loaded:
    variant: Variant
    device: torch.device
    function: Any

    def store(self, arguments: ctypes.Structure, grid: tuple[int, int]) -> None:
        launch_function(
            self.function,
            arguments,
            device=self.device,
            grid=grid,
            threads=self.variant.threads,
            shared_bytes=self.variant.shared_bytes,
        )


def store_tiles(
    step: Step,
    cache: LayerCache,
    *,
    keys: torch.Tensor,
    values: torch.Tensor,
    faults: torch.Tensor | None = None,
) -> bool:
    """Store the tiles that a step completes, if there is a program for it.

    Tiles of dummy sequences are left alone.

    Args:
        step: the batch; its tensors are int32.
        cache: the layer's pages; the tails as the step found them.
        keys: ``[tokens, H, D]`` of the new tokens, as the model made them; channels contiguous.
        values: likewise.
        faults: int64 ``[1]``; the number of elements that are not finite is added. They count as
            zero.

    Returns:
        whether it was done; if not, nothing was.
    """
    if not is_supported(cache.layout, keys.dtype, keys.device):
        return False
    if not are_aligned(keys, values, cache.tail, cache.packed):
        return False
    program = load(Variant(cache.layout, keys.dtype), keys.device)
    launch(program, step, cache, keys=keys, values=values, faults=faults)
    return True


@cache
def is_supported(layout: TileLayout, model: torch.dtype, device: torch.device) -> bool:
    """Whether there is a program for these tiles and the model's type that the device has room for.

    Consumer GPUs have half of the shared memory of the others, too little for large heads.
    """
    if layout.format.is_raw or model not in {torch.bfloat16, torch.float16}:
        return False
    properties = torch.cuda.get_device_properties(device)
    room: int = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]  # untyped
    return Variant(layout, model).shared_bytes <= room


@cache
def load(variant: Variant, device: torch.device) -> Program:
    """Compile a program for a device and load it there.

    Raises:
        RuntimeError: the compiler or the driver refuses it.
    """
    properties = torch.cuda.get_device_properties(device)
    binary = binary_of(MAIN, variant.constants, f"sm_{properties.major}{properties.minor}")
    functions = load_functions(binary, {"store": variant.shared_bytes}, device)
    return _Loaded(variant, device, functions["store"])


def launch(
    program: Program,
    step: Step,
    cache: LayerCache,
    *,
    keys: torch.Tensor,
    values: torch.Tensor,
    faults: torch.Tensor | None,
    beside: bool = False,
) -> None:
    """Launch a program.

    Arguments are those of :func:`store_tiles`, and `beside`: whether attention of the step's single
    tokens was launched just before, so that both may run at the same time.
    """
    heads = cache.packed.shape[1]
    arguments = _Arguments(
        keys=rows_of(keys),
        values=rows_of(values),
        tail=pages_of(cache.tail),
        packed=pages_of(cache.packed),
        segments=segments_of(step, cache, first=0, count=step.segments),
        faults=None if faults is None else faults.data_ptr(),
        beside=beside,
    )
    program.store(arguments, (_blocks(step, heads), 2 * heads))


def _blocks(step: Step, heads: int) -> int:
    """Blocks that share the segments of a head's keys."""
    single = step.segment_sequence is None
    each = min(max(step.segments * heads * 2 // BLOCKS, 1), LANES) if single else 1
    return -(-step.segments // each)
