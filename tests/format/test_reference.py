"""The quantiser and the attention that everything else is compared with."""

import pytest
import torch

from kvarn.format.hadamard import rotation
from kvarn.format.layout import FORMATS, HEAD_DIMS, TILE_TOKENS, TileFormat, TileLayout
from kvarn.format.reference import attention, dequantise, quantise

K4V2 = FORMATS["kvarn_k4v2_g128"]
K3V3 = FORMATS["kvarn_k3v3_g128"]
K4V4 = FORMATS["kvarn_k4v4_g128"]
RAW = FORMATS["kvarn_raw_g128"]


def tiles(head_dim: int, count: int = 8) -> torch.Tensor:
    """Keys with uneven tokens and two outlier channels: ``[count, 128, D]``."""
    generator = torch.Generator().manual_seed(head_dim)
    rows = torch.randn(count, TILE_TOKENS, head_dim, generator=generator)
    rows[..., [3, head_dim // 2]] *= 8
    uneven: torch.Tensor = torch.randn(count, TILE_TOKENS, 1, generator=generator) * 0.7
    return rows * uneven.exp()


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_the_rotation_is_its_own_inverse(head_dim: int) -> None:
    turn = rotation(TileLayout(K4V2, head_dim), torch.device("cpu"))
    torch.testing.assert_close(turn @ turn, torch.eye(head_dim))
    assert torch.equal(turn, turn.T)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize(
    ("tile_format", "keys_within", "values_within"),
    [(K4V2, 0.11, 0.41), (K3V3, 0.21, 0.21), (K4V4, 0.11, 0.11), (RAW, 0.0, 0.0)],
    ids=lambda item: getattr(item, "name", None),
)
def test_a_tile_comes_back_within_its_format_s_error(
    head_dim: int, tile_format: TileFormat, keys_within: float, values_within: float
) -> None:
    layout = TileLayout(tile_format, head_dim)
    keys, values = tiles(head_dim), tiles(head_dim)
    back_keys, back_values = dequantise(layout, quantise(layout, keys, values))
    assert error(back_keys, keys) <= keys_within
    assert error(back_values, values) <= values_within


@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 300.0])
def test_the_error_does_not_depend_on_the_tile_s_magnitude(magnitude: float) -> None:
    layout = TileLayout(K4V2, 128)
    keys = tiles(128) * magnitude
    back, _ = dequantise(layout, quantise(layout, keys, keys))
    assert error(back, keys) == pytest.approx(0.0945, abs=0.002)


def test_normalisation_beats_plain_rounding_on_uneven_tokens() -> None:
    layout = TileLayout(K4V2, 128)
    keys = tiles(128)
    back, _ = dequantise(layout, quantise(layout, keys, keys))
    low, high = keys.amin(-2, keepdim=True), keys.amax(-2, keepdim=True)
    step = (high - low) / 15
    rounded = ((keys - low) / step).round() * step + low
    assert error(back, keys) < 0.7 * error(rounded, keys)


def test_the_channels_of_a_tile_keep_their_means() -> None:
    layout = TileLayout(K4V2, 128)
    keys = tiles(128) + 5
    for back in dequantise(layout, quantise(layout, keys, keys)):
        torch.testing.assert_close(back.mean(-2), keys.mean(-2), atol=5e-2, rtol=0)


@pytest.mark.parametrize("bias", [10.0, 200.0, 1000.0])
@pytest.mark.parametrize("tile_format", [K4V2, K3V3, K4V4], ids=lambda item: item.name)
def test_a_bias_of_the_keys_costs_nothing(tile_format: TileFormat, bias: float) -> None:
    """It is the same in every token, and loud in a few channels, as Qwen2's; no softmax sees it."""
    layout = TileLayout(tile_format, 128)
    keys, biased = tiles(128), tiles(128)
    biased[..., [5, 50, 77, 126]] += bias * torch.tensor([1, -0.6, 0.8, -1])
    want, got = (dequantise(layout, quantise(layout, rows, rows)) for rows in (keys, biased))
    for plain, back in zip(want, got, strict=True):
        # Of a constant of the tile, float16 means keep 11 bits.
        lost = back - biased - (back - biased).mean(-2, keepdim=True)
        assert float(lost.norm()) <= 1.05 * float((plain - keys).norm())
        assert float((back - biased).mean(-2).abs().max()) <= bias / 1000


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_not_finite_counts_as_zero(poison: float) -> None:
    layout = TileLayout(K4V2, 128)
    zeroed, poisoned = tiles(128), tiles(128)
    zeroed[0, 5, 7], poisoned[0, 5, 7] = 0, poison
    want, got = (quantise(layout, rows, rows) for rows in (zeroed, poisoned))
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_enormous_numbers_stay_in_their_own_tile() -> None:
    layout = TileLayout(K4V2, 128)
    keys = tiles(128)
    alone = quantise(layout, keys[1:], keys[1:])
    keys[0] *= 1e30
    beside = quantise(layout, keys, keys)
    assert all(torch.equal(beside[name][1:], alone[name]) for name in alone)


@pytest.mark.parametrize("height", [0.0, 3.0])
def test_flat_keys_come_back(height: float) -> None:
    layout = TileLayout(K4V2, 64)
    keys = torch.full((TILE_TOKENS, 64), height)
    back, _ = dequantise(layout, quantise(layout, keys, torch.zeros_like(keys)))
    torch.testing.assert_close(back, keys, atol=2e-2, rtol=0)


def test_empty_tiles_stay_empty() -> None:
    layout = TileLayout(K4V2, 64)
    nothing = torch.zeros(TILE_TOKENS, 64)
    for back in dequantise(layout, quantise(layout, nothing, nothing)):
        torch.testing.assert_close(back, nothing, atol=1e-6, rtol=0)


def test_attention_over_raw_tiles_is_plain_causal_attention() -> None:
    query = torch.randn(300, 4, 64)
    keys, values = torch.randn(2, 300, 2, 64).unbind()
    got = attention(TileLayout(RAW, 64), query, keys, values, 0.125)
    want = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(0, 1),
        keys.transpose(0, 1),
        values.transpose(0, 1),
        is_causal=True,
        enable_gqa=True,
        scale=0.125,
    )
    torch.testing.assert_close(got, want.transpose(0, 1), atol=1e-5, rtol=1e-5)


def test_a_query_sees_its_own_tile_raw_and_closed_tiles_quantised() -> None:
    """The first tile's queries do not notice the quantiser; later ones do."""
    query, keys, values = (torch.randn(256, 1, 64) for _ in range(3))
    raw = attention(TileLayout(RAW, 64), query, keys, values, 0.125)
    quantised = attention(TileLayout(K4V2, 64), query, keys, values, 0.125)
    torch.testing.assert_close(quantised[:128], raw[:128])
    assert not torch.allclose(quantised[128:], raw[128:], atol=1e-2)


@pytest.mark.parametrize("tile_format", [K4V2, RAW], ids=lambda item: item.name)
def test_attention_does_not_depend_on_how_many_queries_are_asked(tile_format: TileFormat) -> None:
    layout = TileLayout(tile_format, 64)
    query, keys, values = (torch.randn(200, 2, 64) for _ in range(3))
    whole = attention(layout, query, keys, values, 0.125)
    last = attention(layout, query[-3:], keys, values, 0.125)
    torch.testing.assert_close(last, whole[-3:])
