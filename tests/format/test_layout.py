"""The bytes of a tile: contiguous, aligned, exact."""

from itertools import pairwise

import pytest

from kvarn.format.layout import FORMATS, HEAD_DIMS, TILE_TOKENS, TileLayout, tail_bytes

ALL = [
    pytest.param(TileLayout(tile_format, head_dim), id=f"{name}-{head_dim}")
    for name, tile_format in FORMATS.items()
    for head_dim in HEAD_DIMS
]


@pytest.mark.parametrize("layout", ALL)
def test_arrays_lie_without_gap_or_overlap(layout: TileLayout) -> None:
    arrays = list(layout.fields.values())
    assert arrays[0].offset_bytes == 0
    assert all(left.end_bytes == right.offset_bytes for left, right in pairwise(arrays))
    assert arrays[-1].end_bytes == layout.tile_bytes


@pytest.mark.parametrize("layout", ALL)
def test_every_array_starts_on_16_bytes(layout: TileLayout) -> None:
    assert all(field.offset_bytes % 16 == 0 for field in layout.fields.values())


@pytest.mark.parametrize("layout", ALL)
def test_a_tile_is_a_whole_number_of_bytes_per_token(layout: TileLayout) -> None:
    assert layout.tile_bytes == layout.bytes_per_token * TILE_TOKENS


@pytest.mark.parametrize("layout", ALL)
def test_rotation_blocks_tile_the_head(layout: TileLayout) -> None:
    block = layout.rotation_block
    assert layout.head_dim % block == 0
    assert block.bit_count() == 1


@pytest.mark.parametrize(
    ("name", "head_dim", "tile_bytes"),
    [
        ("kvarn_k4v2_g128", 64, 7168),
        ("kvarn_k4v2_g128", 80, 8832),
        ("kvarn_k4v2_g128", 128, 13824),
        ("kvarn_k4v2_g128", 256, 27136),
        ("kvarn_k3v3_g128", 128, 13824),
        ("kvarn_k4v3_g128", 128, 15872),
        ("kvarn_k4v4_g128", 128, 17920),
        ("kvarn_raw_g128", 64, 65536),
    ],
)
def test_known_sizes(name: str, head_dim: int, tile_bytes: int) -> None:
    assert TileLayout(FORMATS[name], head_dim).tile_bytes == tile_bytes


def test_a_format_is_named_after_its_bits() -> None:
    assert list(FORMATS) == [
        *("kvarn_k4v2_g128", "kvarn_k3v3_g128", "kvarn_k4v3_g128", "kvarn_k4v4_g128"),
        "kvarn_raw_g128",
    ]


def test_another_head_dimension_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"head dimension 72.*--kv-cache-dtype auto"):
        TileLayout(FORMATS["kvarn_k4v2_g128"], 72)


def test_a_tail_holds_the_open_tile_of_every_head_in_the_models_precision() -> None:
    assert tail_bytes(kv_heads=8, head_dim=128, element_bytes=2) == 512 * 1024
