"""The source of a program, and the constants that it is compiled with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from kvarn.format.layout import TileLayout
from kvarn.kernels.batch import NULL_PAGE

FOLDER = Path(__file__).parent
MAIN = "decode.cu"

COLUMNS = 8
"""Queries of a product."""

BUSY_WARPS = 8
"""Warps of a multiprocessor that keep memory busy with tiles of 128 channels and more: others
would have shorter pieces. Its four schedulers have as many each, or those with more end last."""

MOST_WARPS = 12
"""Those for smaller tiles, and for arithmetic that takes longer than memory. They have 168
registers each."""

SHARED_BYTES = 233_472
"""Shared memory of a multiprocessor of Hopper."""

RESERVED_BYTES = 1024
"""What it keeps of that for each program."""

MOST_SHARING = 4
"""Groups of queries of a KV head, each of which reads its tiles, at most."""


@dataclass(frozen=True)
class Variant:
    """What a program is compiled for.

    Attributes:
        layout: of the tiles, not raw.
        model: type of the model's activations, bfloat16 or float16.
        group: queries that are attended together, up to :data:`COLUMNS` of a KV head's.
        soft_cap: whether scores are soft-capped.
    """

    layout: TileLayout
    model: torch.dtype
    group: int
    soft_cap: bool

    @property
    def partners(self) -> int:
        """Warps that share a tile: two where it is large, or its arithmetic takes long.

        Measured on an H200; see docs/decisions/0007-decode-in-cuda.md.
        """
        return 2 if self.layout.head_dim > 128 or self._is_arithmetic_bound else 1

    @property
    def resident(self) -> int:
        """Programs that a multiprocessor of Hopper runs side by side."""
        room = SHARED_BYTES // (self.shared_bytes + RESERVED_BYTES)
        many = self.layout.head_dim <= 64 or self._is_arithmetic_bound
        return min((MOST_WARPS if many else BUSY_WARPS) // self.partners, room)

    @property
    def _is_arithmetic_bound(self) -> bool:
        """Whether arithmetic binds: 3-bit keys take long to unpack, in tiles of 128 channels."""
        return self.layout.format.key_bits == 3 and self.layout.head_dim == 128

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a program: a tile, queries, and two barriers.

        Queries are float32 while they are rotated, and then operands of products: eight columns of
        channels in float16, filled up in each plane to whole products.
        """
        layout = self.layout
        planes = {2: 8, 3: 8, 4: 4}[layout.format.key_bits]
        steps = -(-layout.head_dim // planes // 16)
        operands = planes * steps * 16 * COLUMNS * 2
        return layout.tile_bytes + max(operands, self.group * layout.head_dim * 4) + 16

    @property
    def constants(self) -> Mapping[str, int | str]:
        """Preprocessor definitions; offsets are bytes, those of values count from their codes."""
        layout = self.layout
        offsets = {name: field.offset_bytes for name, field in layout.fields.items()}
        begin = {"key": 0, "value": offsets["value_codes"]}
        scales = {
            f"{of}_{name}".upper(): offsets[f"{of}_{name}"] - begin[of]
            for of in begin
            for name in ("token_scale", "channel_scale", "mean")
        }
        caps = {"SOFT_CAP": 1} if self.soft_cap else {}
        return (
            constants_of(layout, self.model)
            | scales
            | caps
            | {
                "GROUP": self.group,
                "PARTNERS": self.partners,
                "RESIDENT": self.resident,
                "VALUE_CODES": begin["value"],
                "TILE_BYTES": layout.tile_bytes,
                "SHARED_BYTES": self.shared_bytes,
            }
        )


def constants_of(layout: TileLayout, model: torch.dtype) -> dict[str, int | str]:
    """Preprocessor definitions of every program."""
    types: dict[str, int | str] = {"MODEL_BFLOAT": 1} if model == torch.bfloat16 else {}
    return types | {
        "HEAD_DIM": layout.head_dim,
        "KEY_BITS": layout.format.key_bits,
        "VALUE_BITS": layout.format.value_bits,
        "NULL_PAGE": NULL_PAGE,
        "ROTATION_BLOCK": layout.rotation_block,
        "ROTATION_NORM": f"{layout.rotation_block**-0.5!r}f",
    }


def is_supported(layout: TileLayout, model: torch.dtype, *, group: int) -> bool:
    """Whether there is a program.

    A lane takes four words of a token's key codes at once, which those of 3 bits have only in head
    dimensions that are multiples of 64.

    Args:
        layout: of the tiles.
        model: type of the model's activations.
        group: query heads of a KV head.
    """
    return (
        not layout.format.is_raw
        and model in (torch.bfloat16, torch.float16)
        and sharing(group) <= MOST_SHARING
        and (layout.format.key_bits != 3 or layout.head_dim % 64 == 0)
    )


def sharing(group: int) -> int:
    """Groups that a KV head's queries are cut into, all of one size."""
    return next(
        parts for parts in range(1, group + 1) if group <= parts * COLUMNS and group % parts == 0
    )
