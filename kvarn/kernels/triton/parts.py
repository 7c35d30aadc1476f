"""How the work of a launch is cut, from numbers that the host knows."""

from dataclasses import dataclass
from functools import cache, lru_cache

import torch
import triton
from triton.runtime import driver

from kvarn.format.layout import TileLayout
from kvarn.kernels.triton.rotate import INTERPRETED, padded_channels

WARPS_AT_ONCE = 8
"""Warps of 255 registers that a multiprocessor runs side by side."""

LEAST_TILES = 2
"""Fewest tiles that are worth a part of their own."""

FIXED_TILES = 32
"""Tiles of a part where results must not depend on the batch."""

ROOM_BYTES = 166_912
"""Shared memory that a program can have on an A100; with less, kernels take other shapes."""

STAGES = 3
"""Iterations of a loop whose rows are loaded at once; Triton's own choice."""

_OVERHEAD_TILES = 2
"""What a part costs beside its tiles, in tiles."""


@dataclass(frozen=True)
class Cut:
    """What a program takes, and what it is given for that.

    Attributes:
        columns: query rows.
        parts: most parts of a history.
        least_tiles: of a part. A history has as many parts as it fills, all of one size.
        warps: of the program.
        stages: tiles whose words are loaded at once.
    """

    columns: int
    parts: int
    least_tiles: int
    warps: int
    stages: int


def fixed_cut(layout: TileLayout, *, group: int, tiles: int) -> Cut:
    """A cut that depends on a history's length alone.

    Args:
        layout: of the tiles.
        group: query heads of a KV head.
        tiles: of the longest history.
    """
    return Cut(
        columns=_columns(group),
        parts=triton.cdiv(tiles, FIXED_TILES),
        least_tiles=FIXED_TILES,
        warps=_warps(layout),
        stages=_stages(layout),
    )


@lru_cache(4096)  # there is one for each length of a history
def even_cut(layout: TileLayout, *, rows: int, histories: int, tiles: int, processors: int) -> Cut:
    """A cut that keeps a device busy, with programs that end together.

    Args:
        layout: of the tiles.
        rows: queries of a KV head and sequence.
        histories: KV heads times sequences.
        tiles: of the longest history.
        processors: multiprocessors of the device.
    """
    columns, warps = _columns(rows), _warps(layout)
    programs = histories * triton.cdiv(rows, columns)
    at_once = processors * WARPS_AT_ONCE // warps
    most = max(1, min(triton.cdiv(tiles, LEAST_TILES), at_once // programs))

    def duration(parts: int) -> int:
        rounds: int = triton.cdiv(programs * parts, at_once)
        return rounds * (triton.cdiv(tiles, parts) + _OVERHEAD_TILES)

    return Cut(
        columns=columns,
        parts=min(range(1, most + 1), key=duration),
        least_tiles=LEAST_TILES,
        warps=warps,
        stages=_stages(layout),
    )


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a device; 1 where kernels are interpreted."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def is_roomy() -> bool:
    """Whether a program can have :data:`ROOM_BYTES` of shared memory on the current device.

    The many GPUs of compute capability 8.6, 8.9 and 12.x have 101,376 bytes.
    """
    return INTERPRETED.value or _shared_bytes(driver.active.get_current_device()) >= ROOM_BYTES


@cache
def _shared_bytes(device: int) -> int:
    size: int = driver.active.utils.get_device_properties(device)["max_shared_mem"]
    return size


def stages(layout: TileLayout) -> int:
    """Stages of a program's loops over rows: one where several large ones do not fit."""
    return STAGES if padded_channels(layout) <= 128 or is_roomy() else 1


def _columns(rows: int) -> int:
    """Columns of a product for so many query rows: a power of two that tensor cores take."""
    return 8 if rows <= 8 else 16


def _warps(layout: TileLayout) -> int:
    """One, which waits for no other, as long as a tile fits into it."""
    return max(1, padded_channels(layout) // 128)


def _stages(layout: TileLayout) -> int:
    """Two, unless the words of two tiles would crowd other programs out."""
    bits = (layout.format.key_bits, layout.format.value_bits)
    return 1 if 3 in bits or padded_channels(layout) > 256 else 2
