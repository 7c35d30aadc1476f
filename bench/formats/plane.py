"""Error of attention outputs against stored bits, for every contender on every data set."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from bench.formats import recipe, rivals
from bench.formats.data import HEAD_DIM, Layer
from bench.formats.method import Method
from bench.formats.published import published
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
        recipe.method("centred k4v2", recipe.CENTRED_K4V2),
        recipe.method("centred k3v3", recipe.CENTRED_K3V3),
        recipe.method("centred k4v3", recipe.CENTRED_K4V3),
        recipe.method("centred k4v4", recipe.CENTRED_K4V4),
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
    """Each choice of the quantiser alone, against the shipped or the centred recipe."""
    base, centred, fine = recipe.K4V2, recipe.CENTRED_K4V2, recipe.CENTRED_K4V4

    def series(name: str, values: Iterable[object], of: recipe.Recipe) -> list[Method]:
        return [
            recipe.method(f"{name} {value}", replace(of, **{name: value}))  # type: ignore[arg-type]
            for value in values
        ]

    return {
        "from the first version to the centred one, k4v2": [
            recipe.method("first version", base),
            recipe.method("+ scales fitted to the codes", replace(base, fits=2)),
            recipe.method("+ a scale per value channel", replace(base, value_channels=True)),
            recipe.method("+ means per value channel", replace(base, value_means=True)),
            recipe.method("+ means and scales", replace(centred, fits=0)),
            recipe.method("+ all three", centred),
        ],
        "iterations, centred k4v2": series("iterations", (0, 1, 2, 3, 4, 8), centred),
        "fits, centred k4v2": series("fits", (0, 1, 2, 4), centred),
        "range of 2-bit values, first version": series(
            "value_range", (1.0, 0.9, 0.8, 0.75, 0.7, 0.65, 0.6), base
        ),
        "range of 2-bit values, centred": series("value_range", (0.8, 0.7, 0.6), centred),
        "range of 4-bit values, centred": series("value_range", (1.0, 0.95, 0.9, 0.85), fine),
        "range of 4-bit keys, centred k4v4": series("key_range", (1.0, 0.95, 0.9, 0.85), fine),
        "rotation, centred k4v2": series("rotate", (True, False), centred),
        "tokens of a tile, centred k4v2": series("group_tokens", (64, 128), centred),
        "bits of metadata, centred k4v2": series("metadata_bits", (16, 8), centred),
        "candidates: one iteration, four fits": [
            recipe.method(f"{name}{kind}", replace(each, iterations=1, fits=4, metadata_bits=bits))
            for kind, bits in ((", float16", 16), (", e4m3", 8))
            for name, each in (
                ("k4v2", recipe.CENTRED_K4V2),
                ("k3v3", recipe.CENTRED_K3V3),
                ("k4v3", recipe.CENTRED_K4V3),
                ("k4v4", recipe.CENTRED_K4V4),
            )
        ],
        "raw sink tokens, centred k4v2": [
            recipe.method(f"sink {tokens}", centred, sink_tokens=tokens)
            for tokens in (0, 4, 16, 32, 128)
        ],
    }


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
