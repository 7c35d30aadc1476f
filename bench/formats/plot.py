"""The plane as an SVG: one panel for each data set, logarithmic in the error."""

from collections.abc import Sequence
from math import log10
from xml.sax.saxutils import escape

from bench.formats.plane import Point

WIDTH, HEIGHT, LEFT, BOTTOM, GAP = 330, 300, 46, 40, 18
BITS = (3.0, 4.6)
ERRORS = (0.05, 1.6)
LEGEND_WIDTH = 210
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TICKS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
OURS, RIVAL, ORIGIN = "#0b6e4f", "#b3261e", "#6b7280"


def svg(points: Sequence[Point]) -> str:
    """The picture as text."""
    names = list(points[0].errors)
    shown = [point for point in points if BITS[0] <= point.bits <= BITS[1]]
    panels = [_panel(name, shown, number * (WIDTH + GAP)) for number, name in enumerate(names)]
    panels.append(_legend(shown, len(names) * (WIDTH + GAP)))
    width = len(names) * (WIDTH + GAP) + LEGEND_WIDTH
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT + 24}" '
        'font-family="sans-serif" font-size="9"><title>Attention-output error against stored '
        f'bits</title><rect width="100%" height="100%" fill="#fff"/>{"".join(panels)}</svg>\n'
    )


def _panel(data: str, points: Sequence[Point], left: int) -> str:
    marks = "".join(
        _mark(letter, point.name, _x(point.bits), _y(point.errors[data]))
        for letter, point in zip(LETTERS, points, strict=False)
    )
    return (
        f'<g transform="translate({left},20)"><text x="{LEFT}" y="-6" font-size="12">'
        f"{escape(data)}</text>{_axes()}{marks}</g>"
    )


def _mark(letter: str, name: str, x: float, y: float) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{_color(name)}" fill-opacity="0.8"/>'
        f'<text x="{x:.1f}" y="{y + 3:.1f}" text-anchor="middle" fill="#fff">{letter}</text>'
    )


def _legend(points: Sequence[Point], left: int) -> str:
    lines = "".join(
        _mark(letter, point.name, 10, 20 + 20 * number)
        + f'<text x="22" y="{23 + 20 * number}">{escape(point.name)}, {point.bits:g} bits</text>'
        for number, (letter, point) in enumerate(zip(LETTERS, points, strict=False))
    )
    return f'<g transform="translate({left},0)">{lines}</g>'


def _axes() -> str:
    rows = "".join(
        f'<path d="M{LEFT} {_y(tick):.1f}H{WIDTH}" stroke="#ddd"/>'
        f'<text x="{LEFT - 4}" y="{_y(tick) + 3:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in TICKS
    )
    columns = "".join(
        f'<text x="{_x(bits):.1f}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{bits:g}</text>'
        for bits in (3.0, 3.25, 3.5, 3.75, 4.0, 4.25, 4.5)
    )
    caption = (
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 10}" text-anchor="middle">stored bits per '
        "number (relative error of attention outputs upwards)</text>"
    )
    return rows + columns + caption


def _color(name: str) -> str:
    if name.startswith(("kvarn_", "centred")):
        return OURS
    return RIVAL if name.startswith(("turboquant", "int4", "fp8")) else ORIGIN


def _x(bits: float) -> float:
    return LEFT + (bits - BITS[0]) / (BITS[1] - BITS[0]) * (WIDTH - LEFT)


def _y(error: float) -> float:
    part = (log10(error) - log10(ERRORS[0])) / (log10(ERRORS[1]) - log10(ERRORS[0]))
    return (1 - part) * (HEIGHT - BOTTOM)
