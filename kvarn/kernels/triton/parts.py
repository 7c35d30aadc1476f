"""How the work of a launch is cut, from numbers that the host knows."""

from dataclasses import dataclass
from functools import cache

import torch
import triton

PROGRAMS_AT_ONCE = 8
"""Programs of one warp and 255 registers that a multiprocessor runs side by side."""

LEAST_TILES = 2
"""Fewest tiles that are worth a part of their own."""

FIXED_TILES = 32
"""Tiles of a part where results must not depend on the batch."""

_OVERHEAD_TILES = 2
"""What a part costs beside its tiles, in tiles."""


@dataclass(frozen=True)
class Cut:
    """What a program takes.

    Attributes:
        columns: query rows.
        parts: most parts of a history.
        least_tiles: of a part. A history has as many parts as it fills, all of one size.
    """

    columns: int
    parts: int
    least_tiles: int


def fixed_cut(*, group: int, tiles: int) -> Cut:
    """A cut that depends on a history's length alone.

    Args:
        group: query heads of a KV head.
        tiles: of the longest history.
    """
    return Cut(_columns(group), triton.cdiv(tiles, FIXED_TILES), FIXED_TILES)


@cache
def even_cut(*, rows: int, histories: int, tiles: int, processors: int) -> Cut:
    """A cut that keeps a device busy, with programs that end together.

    Args:
        rows: queries of a KV head and sequence.
        histories: KV heads times sequences.
        tiles: of the longest history.
        processors: multiprocessors of the device.
    """
    columns = _columns(rows)
    programs = histories * triton.cdiv(rows, columns)
    at_once = processors * PROGRAMS_AT_ONCE
    most = max(1, min(triton.cdiv(tiles, LEAST_TILES), at_once // programs))

    def duration(parts: int) -> int:
        rounds: int = triton.cdiv(programs * parts, at_once)
        return rounds * (triton.cdiv(tiles, parts) + _OVERHEAD_TILES)

    return Cut(columns, min(range(1, most + 1), key=duration), LEAST_TILES)


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a device; 1 where kernels are interpreted."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def _columns(rows: int) -> int:
    """Columns of a product for so many query rows: a power of two that tensor cores take."""
    return 8 if rows <= 8 else 16
