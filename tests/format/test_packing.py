"""Codes and arrays survive the way into bytes and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvarn.format.layout import FORMATS, HEAD_DIMS, TILE_TOKENS, TileLayout
from kvarn.format.packing import arrays, decode, encode, pack_codes, unpack_codes


@given(seed=st.integers(0, 2**32), bits=st.sampled_from([2, 3, 4, 8]), words=st.integers(1, 40))
def test_unpacking_undoes_packing(seed: int, bits: int, words: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (3, words * 16), generator=generator)
    assert torch.equal(unpack_codes(pack_codes(codes, bits), bits), codes.to(torch.int16))


def test_a_words_fields_belong_to_channels_a_plane_apart() -> None:
    codes = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0])
    words = pack_codes(codes, bits=4)
    assert [f"{word:04x}" for word in words.tolist()] == ["7531", "0642"]


def test_a_code_of_three_bits_lies_in_two_words() -> None:
    codes = torch.arange(16) % 8
    words = pack_codes(codes, bits=3)
    assert [f"{word & 0xFFFF:04x}" for word in words.tolist()] == ["8888", "dddd", "f0f0"]


@given(seed=st.integers(0, 2**32), bits=st.sampled_from([2, 3, 4]))
def test_words_may_lie_along_another_axis(seed: int, bits: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(-(2**15), 2**15, (5, 48, 7), generator=generator).to(torch.int16)
    turned = unpack_codes(words, bits, axis=-2)
    assert torch.equal(turned, unpack_codes(words.mT, bits).mT)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_decoding_undoes_encoding(name: str, head_dim: int) -> None:
    layout = TileLayout(FORMATS[name], head_dim)
    tiles = torch.randint(256, (2, 3, layout.tile_bytes), dtype=torch.uint8)
    assert torch.equal(encode(layout, decode(layout, tiles)), tiles)


def test_arrays_are_views_of_the_bytes() -> None:
    layout = TileLayout(FORMATS["kvarn_k4v2_g128"], 64)
    tiles = torch.zeros(1, layout.tile_bytes, dtype=torch.uint8)
    arrays(layout, tiles)["value_token_scale"].fill_(1.0)
    assert tiles.count_nonzero() == TILE_TOKENS
