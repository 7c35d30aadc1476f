"""What each choice of the tile's format is worth, on synthetic tiles.

    python -m bench.formats.choices [--json]

Tiles of 128 tokens and 128 channels. Keys: relative error after the way through the cache. Values:
relative error of attention outputs over them. All comparisons are on the same tiles, seeded.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import click
import torch
from rich.console import Console
from rich.table import Table

from kvarn.format.hadamard import hadamard
from kvarn.format.layout import FORMATS, TILE_TOKENS, TileLayout
from kvarn.format.reference import dequantise, quantise, token_scales

HEAD_DIM = 128
TILES = 64
QUERIES = 32
KEY_BITS = 4

Rows = torch.Tensor
Method = Callable[[Rows], Rows]
Errors = Mapping[str, Mapping[str, float]]


def tiles(*, uneven: float, outliers: bool, mean: float, magnitude: float) -> Rows:
    """Tiles ``[64, 128, 128]``: uneven tokens, outlier channels, channels with a mean."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(TILES, TILE_TOKENS, HEAD_DIM, generator=generator)
    if outliers:
        rows[..., ::32] *= 8
    rows += mean * torch.randn(TILES, 1, HEAD_DIM, generator=generator)
    tokens: Rows = uneven * torch.randn(TILES, TILE_TOKENS, 1, generator=generator)
    return rows * tokens.exp() * magnitude


DATA: Mapping[str, Rows] = {
    "Gaussian": tiles(uneven=0, outliers=False, mean=0, magnitude=1),
    "outlier channels": tiles(uneven=0.1, outliers=True, mean=0, magnitude=1),
    "uneven tokens": tiles(uneven=0.7, outliers=True, mean=0, magnitude=1),
    "uneven, with means": tiles(uneven=0.7, outliers=True, mean=2, magnitude=1),
    "uneven, small": tiles(uneven=0.7, outliers=True, mean=0, magnitude=0.03),
}


def rounded(rows: Rows, *, axis: int, bits: int, part: float = 1.0) -> Rows:
    """Round to nearest between the ends of each row's range, or of a part of it."""
    low, high = rows.amin(axis, keepdim=True), rows.amax(axis, keepdim=True)
    spread = (high - low) * part
    zero, step = (low + high - spread) / 2, spread / ((1 << bits) - 1)
    codes = ((rows - zero) / step).round().clamp(0, (1 << bits) - 1)
    result: Rows = codes * step + zero
    return result


def rotated(method: Method) -> Method:
    """The same method on rotated channels."""
    turn = hadamard(HEAD_DIM)
    return lambda rows: method(rows @ turn) @ turn


def normalised(iterations: int) -> Method:
    """Our keys with so many iterations."""

    def method(rows: Rows) -> Rows:
        scales = token_scales(rows, iterations)
        return rounded(rows / scales, axis=-2, bits=KEY_BITS) * scales

    return rotated(method)


def published(rows: Rows) -> Rows:
    """Keys as the published method has them: 8 iterations of clamped deviations, the best kept."""
    tokens, channels = torch.zeros_like(rows[..., :1]), torch.zeros_like(rows[..., :1, :])
    best, factors = _imbalance(rows), (tokens, channels)
    for _ in range(8):
        flat = rows / tokens.exp() / channels.exp()
        tokens = (tokens + flat.std(-1, keepdim=True).clamp(1e-3, 1e3).log()).clamp(-0.3, 10)
        flat = rows / tokens.exp() / channels.exp()
        channels = (channels + flat.std(-2, keepdim=True).clamp(1e-3, 1e3).log()).clamp(-0.3, 10)
        now = _imbalance(rows / tokens.exp() / channels.exp())
        better = now <= best
        factors = (
            torch.where(better, tokens, factors[0]),
            torch.where(better, channels, factors[1]),
        )
        best = torch.minimum(best, now)
    scale = factors[0].exp() * factors[1].exp()
    return rounded(rows / scale, axis=-2, bits=KEY_BITS) * scale


def _imbalance(rows: Rows) -> Rows:
    spreads = [rows.std(axis, keepdim=True) for axis in (-1, -2)]
    ratios = [spread.amax((-2, -1), True) / spread.amin((-2, -1), True) for spread in spreads]
    return ratios[0] + ratios[1]


def key_errors() -> Errors:
    """Relative error of keys by method and data."""
    methods: dict[str, Method] = {
        "plain rounding": lambda rows: rounded(rows, axis=-2, bits=KEY_BITS),
        "rotated": rotated(lambda rows: rounded(rows, axis=-2, bits=KEY_BITS)),
        "published, 8 iterations": rotated(published),
        **{f"ours, {count} iterations": normalised(count) for count in (1, 2, 3, 4, 8)},
        **{f"ours, range of {part}": _stored_keys(part) for part in (1.0, 0.95, 0.9, 0.85)},
    }
    return {
        name: {data: _error(method(rows), rows) for data, rows in DATA.items()}
        for name, method in methods.items()
    }


def value_errors(cache_format: str) -> Errors:
    """Relative error of attention outputs over a format's values, by method and data."""
    bits = FORMATS[cache_format].value_bits
    methods: dict[str, Method] = {
        "rotated": rotated(lambda rows: rounded(rows, axis=-1, bits=bits)),
        "rotated and normalised": rotated(lambda rows: _normalised_values(rows, bits, 1.0)),
        "rotated and normalised, the format's range": rotated(
            lambda rows: _normalised_values(rows, bits, FORMATS[cache_format].value_range)
        ),
        **{
            f"rotated, range of {part}": _stored_values(cache_format, part)
            for part in (0.95, 0.9, 0.8, 0.75, 0.7, 0.65)
        },
    }
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(TILES, QUERIES, TILE_TOKENS, generator=generator).mul(2).softmax(-1)
    return {
        name: {data: _error(weights @ method(rows), weights @ rows) for data, rows in DATA.items()}
        for name, method in methods.items()
    }


def _normalised_values(rows: Rows, bits: int, part: float) -> Rows:
    channels = token_scales(rows.mT).mT
    return rounded(rows / channels, axis=-1, bits=bits, part=part) * channels


def _stored_keys(part: float) -> Method:
    """Through the cache as it is stored, with another range of codes."""
    layout = TileLayout(replace(FORMATS["kvarn_k4v2_g128"], key_range=part), HEAD_DIM)
    return lambda rows: dequantise(layout, quantise(layout, rows, rows))[0]


def _stored_values(cache_format: str, part: float) -> Method:
    layout = TileLayout(replace(FORMATS[cache_format], value_range=part), HEAD_DIM)
    return lambda rows: dequantise(layout, quantise(layout, rows, rows))[1]


def _error(got: Rows, want: Rows) -> float:
    return float((got - want).norm() / want.norm())


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(as_json: bool) -> None:
    """Print what each choice of the tile's format is worth."""
    results = {
        "keys, 4 bits": key_errors(),
        "values, 2 bits": value_errors("kvarn_k4v2_g128"),
        "values, 4 bits": value_errors("kvarn_k4v4_g128"),
    }
    if as_json:
        print(json.dumps(results))
        return
    for title, errors in results.items():
        table = Table("method", *DATA, title=f"{title}: relative error")
        for method, row in errors.items():
            table.add_row(method, *(f"{error:.4f}" for error in row.values()))
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
