"""Unpacked planes are the codes, however they are unpacked."""

import pytest
import torch
import triton
import triton.language as tl

from kvarn.format.layout import TILE_TOKENS, TileFormat, TileLayout
from kvarn.format.packing import pack_codes
from kvarn.kernels.triton.planes import (
    code_planes,
    load_codes,
    plane_count,
    plane_factor,
    plane_width,
    word_places,
)
from kvarn.kernels.triton.step import TILE
from tests.kernels.steps import DEVICE

WAYS = [False, True] if DEVICE.type == "cuda" else [False]  # the interpreter knows no assembly


@triton.jit
def _unpack(words, out, layout: tl.constexpr, bits: tl.constexpr, asm: tl.constexpr):  # type: ignore[no-untyped-def]
    word, exists = word_places(layout, bits)
    token = tl.arange(0, TILE)[:, None]
    offsets = token * (layout.head_dim * bits // 16)
    low, high = load_codes(words, 1, offsets, word[None, :], exists[None, :], layout, bits)
    planes = code_planes(low, high, bits, asm)
    for plane in tl.static_range(plane_count(bits)):
        channel = plane * (layout.head_dim // plane_count(bits)) + word
        codes = planes[plane].to(tl.float32) * plane_factor(bits, plane)
        tl.store(out + token * layout.head_dim + channel[None, :], codes, mask=exists[None, :])


@pytest.mark.parametrize("asm", WAYS)
@pytest.mark.parametrize("head_dim", [64, 80, 128])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_planes_are_codes(bits: int, head_dim: int, asm: bool) -> None:
    layout = TileLayout(TileFormat(key_bits=bits, value_bits=bits), head_dim)
    codes = torch.randint(0, 1 << bits, (TILE_TOKENS, head_dim), device=DEVICE)
    out = torch.full((TILE_TOKENS, head_dim), torch.nan, device=DEVICE)
    _unpack[(1,)](pack_codes(codes, bits), out, layout=layout, bits=bits, asm=asm)
    assert torch.equal(out, codes.float())
    assert plane_width(layout, bits) >= 16
