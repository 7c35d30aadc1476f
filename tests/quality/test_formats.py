"""The study's contenders are what they claim to be."""

from xml.etree import ElementTree

import pytest
import torch
from vllm.model_executor.layers.quantization.turboquant.centroids import get_centroids
from vllm.model_executor.layers.quantization.turboquant.config import TurboQuantConfig

from bench.formats import plane, plot, recipe, rivals
from bench.formats.data import synthetic
from bench.formats.method import Method
from bench.formats.published import published
from kvarn.format.layout import FORMATS

Rows = tuple[torch.Tensor, torch.Tensor]
RAW = Method("raw", lambda _: 16.0, lambda keys, values: (keys, values))


def error(method: Method, rows: Rows) -> float:
    """Relative error of keys and values together."""
    pairs = zip(method.through(*rows), rows, strict=True)
    return sum(float((back - exact).norm() / exact.norm()) for back, exact in pairs)


@pytest.mark.parametrize("bits", [3, 4])
def test_turboquants_levels_are_vllms(bits: int) -> None:
    restated = rivals.gaussian_levels(bits) / 128**0.5
    torch.testing.assert_close(restated, get_centroids(128, bits), atol=0, rtol=5e-3)


@pytest.mark.parametrize(("name", "bits"), [("3bit_nc", (3, 3)), ("k3v4_nc", (3, 4))])
def test_turboquant_counts_the_bytes_that_vllm_stores(name: str, bits: tuple[int, int]) -> None:
    config = TurboQuantConfig.from_cache_dtype(f"turboquant_{name}", 128)
    ours = rivals.turboquant(name, key_bits=bits[0], value_bits=bits[1])
    assert ours.bits(128) == config.slot_size * 8 / 256


@pytest.mark.parametrize("name", [name for name in FORMATS if not FORMATS[name].is_raw])
def test_the_recipe_is_the_format(name: str, rows: Rows) -> None:
    """The ablations start from `kvarn.format` itself, so both must agree."""
    ours, open_choices = plane.shipped(FORMATS[name]), recipe.method(name, recipe.of(FORMATS[name]))
    assert error(open_choices, rows) == pytest.approx(error(ours, rows), rel=1e-3)
    assert open_choices.bits(128) == ours.bits(128)


def test_means_leave_a_tile_no_error_on_average(rows: Rows) -> None:
    method = recipe.method("", recipe.Recipe())
    off = (method.through(*rows)[1] - rows[1]).unflatten(-2, (-1, 128))
    assert off.mean(-2).abs().max() < 2e-3 < off.abs().mean()


def test_fitting_scales_to_codes_lowers_the_error(rows: Rows) -> None:
    errors = [error(recipe.method("", recipe.Recipe(passes=passes)), rows) for passes in (0, 1, 4)]
    assert errors == sorted(errors, reverse=True)


def test_the_published_method_depends_on_magnitude_and_ours_does_not() -> None:
    layer = synthetic(0, uneven=0.7, device=torch.device("cpu"))
    large, small = ((layer.keys * factor, layer.values) for factor in (1.0, 0.02))
    ours = recipe.method("", recipe.Recipe(value_bits=4))
    assert error(ours, small) == pytest.approx(error(ours, large), rel=0.02)
    assert error(published(4, 4), small) > 1.1 * error(published(4, 4), large)


def test_exact_storage_has_no_error_on_the_plane() -> None:
    layers = [synthetic(0, uneven=0.1, device=torch.device("cpu"))]
    (point,) = plane.place([RAW], {"synthetic": layers})
    assert point.errors["synthetic"] == 0


def test_more_sink_means_less_error() -> None:
    layers = [synthetic(0, uneven=0.1, device=torch.device("cpu"))]
    errors = [
        plane.output_error(recipe.method("", recipe.Recipe(), sink_tokens=tokens), layers)
        for tokens in (0, 512, 2048)
    ]
    assert errors[0] > errors[1] > errors[2] == 0


def test_the_picture_names_every_contender_in_view() -> None:
    points = [plane.Point("a < b", 3.3, {"x": 0.2}), plane.Point("far", 8.0, {"x": 0.1})]
    texts = {each.text for each in ElementTree.fromstring(plot.svg(points)).iter()}
    assert "a < b, 3.3 bits" in texts
    assert not any(text and text.startswith("far") for text in texts)
