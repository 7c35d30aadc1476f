"""Error of attention outputs against stored bits, for every contender on every data set."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from bench.formats import recipe, rivals
from bench.formats.data import HEAD_DIM, Layer
from bench.formats.method import Method
from bench.formats.published import published
from bench.formats.recipe import Recipe
from kvarn.format.layout import FORMATS, TileFormat, TileLayout
from kvarn.format.reference import dequantise, quantise

LIMIT_BITS = 0.2
"""How many bits above a rival one of ours may lie and still be compared with it."""


@dataclass(frozen=True)
class Point:
    """A contender on the plane; `errors` by data set, relative to exact attention outputs."""

    name: str
    bits: float
    errors: Mapping[str, float]


def shipped(tile_format: TileFormat) -> Method:
    """A preset of `kvarn.format`, through its own code."""

    def through(keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        layout = TileLayout(tile_format, keys.shape[-1])
        tiles = (rows.unflatten(-2, (-1, 128)) for rows in (keys, values))
        back_keys, back_values = dequantise(layout, quantise(layout, *tiles))
        return back_keys.flatten(-3, -2), back_values.flatten(-3, -2)

    return Method(
        tile_format.name,
        lambda head_dim: TileLayout(tile_format, head_dim).bits_per_element,
        through,
        keeps_open_tile=True,
    )


def contenders() -> list[Method]:
    """Ours and what they stand against."""
    return [
        *(shipped(tile_format) for tile_format in FORMATS.values() if not tile_format.is_raw),
        published(4, 2),
        published(4, 4),
        rivals.plain(4, 2),
        rivals.plain(4, 4),
        rivals.turboquant("3bit_nc", key_bits=3, value_bits=3),
        rivals.turboquant("k3v4_nc", key_bits=3, value_bits=4),
        rivals.turboquant("4bit_nc", key_bits=4, value_bits=4),
        rivals.int4_per_token_head(),
        rivals.fp8(),
    ]


def ablations() -> Mapping[str, list[Method]]:
    """Each choice of the quantiser alone, about the presets."""
    coarse, fine = Recipe(), Recipe(value_bits=4)
    even = Recipe(key_bits=3, value_bits=3)

    def ranges(bits: int, parts: Iterable[float], of: Recipe) -> list[Method]:
        return [recipe.method(f"range {part}", recipe.with_range(of, bits, part)) for part in parts]

    return {
        "one choice undone, k4v4": _undone(fine),
        "one choice undone, k4v2": _undone(coarse),
        "passes, k4v2": _series(coarse, "passes", (0, 1, 2, 3, 4, 8)),
        "passes, k4v4": _series(fine, "passes", (0, 1, 2, 3, 4, 8)),
        "range of 2 bits, k4v2": ranges(2, (0.6, 0.65, 0.7, 0.75, 0.8, 1.0), coarse),
        "range of 3 bits, k3v3": ranges(3, (0.75, 0.8, 0.85, 0.9, 1.0), even),
        "range of 4 bits, k4v4": ranges(4, (0.85, 0.9, 0.95, 1.0), fine),
        "tokens of a tile, k4v2": _series(coarse, "group_tokens", (64, 128)),
        "metadata in e4m3": [
            recipe.method(f"{name}, e4m3", replace(recipe.of(each), metadata_bits=8))
            for name, each in FORMATS.items()
            if not each.is_raw
        ],
        "raw sink tokens, k4v2": [
            recipe.method(f"sink {tokens}", coarse, sink_tokens=tokens)
            for tokens in (0, 4, 16, 32, 128)
        ],
    }


def _undone(whole: Recipe) -> list[Method]:
    return [
        recipe.method(name, changed)
        for name, changed in {
            "as it is": whole,
            "nothing fitted": replace(whole, passes=0),
            "means not fitted": replace(whole, means=False),
            "about the average": replace(whole, centre="average"),
            "levels about zero": replace(whole, about_zero=True),
            "uneven tokens": replace(whole, even_tokens=False),
            "not rotated": replace(whole, rotate=False),
        }.items()
    ]


def _series(whole: Recipe, name: str, values: Iterable[int]) -> list[Method]:
    changed: Any = ({name: value} for value in values)
    return [recipe.method(f"{name} {each[name]}", replace(whole, **each)) for each in changed]


def place(methods: Iterable[Method], data: Mapping[str, Sequence[Layer]]) -> list[Point]:
    """The methods on the plane."""
    return [
        Point(
            method.name,
            round(method.bits(HEAD_DIM), 4),
            {name: round(output_error(method, layers), 4) for name, layers in data.items()},
        )
        for method in methods
    ]


def output_error(method: Method, layers: Sequence[Layer]) -> float:
    """Mean over layers and KV heads of the relative error of attention outputs."""
    return float(torch.stack([_layer_error(method, layer) for layer in layers]).mean())


def _layer_error(method: Method, layer: Layer) -> torch.Tensor:
    keys, values = method.stored(layer.keys, layer.values)
    want = layer.weights(layer.keys) @ layer.values.unsqueeze(1)
    got = layer.weights(keys) @ values.unsqueeze(1)
    axes = (1, 2, 3)
    return ((got - want).square().sum(axes) / want.square().sum(axes)).sqrt().mean()


def worse_than_a_rival(points: Iterable[Point], rival: Point, data: str) -> list[str]:
    """Names of those within the limit of bits whose error is not below the rival's."""
    return [
        point.name
        for point in points
        if point.bits <= rival.bits + LIMIT_BITS and point.errors[data] >= rival.errors[data]
    ]
