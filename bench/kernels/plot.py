"""The record as an SVG: a row for each step, a mark for each format.

Speed-up over bfloat16 on the left, on a logarithmic axis: equal distances are equal factors. On the
right, what limits it: the share of copy bandwidth in decoding, and the store's part of a layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from types import MappingProxyType
from xml.sax.saxutils import escape

from bench.kernels.record import Point

LABELS, WIDE, NARROW, GAP, MARGIN = 170, 430, 230, 34, 16
ROW, HEAD, FOOT, TITLE, LEGEND = 19, 30, 26, 44, 24
TICKS = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)

COLORS: Mapping[str, str] = MappingProxyType(
    {
        "kvarn_k4v2_g128": "#065f46",
        "kvarn_k3v3_g128": "#0d9488",
        "kvarn_k4v3_g128": "#4ade80",
        "kvarn_k4v4_g128": "#a3b818",
        "bf16": "#111827",
        "fp8": "#6b7280",
        "int4_per_token_head": "#b3261e",
        "turboquant_4bit_nc": "#e08a00",
    }
)
OTHER = "#1f5fa8"


@dataclass(frozen=True)
class Axis:
    """From left to right.

    Attributes:
        ticks: values with a line, in order; the first and the last are the ends.
        unit: after each, `×` or `%`.
        logarithmic: equal distances are equal factors.
    """

    ticks: Sequence[float]
    unit: str
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Between 0 and 1, at the ends at most."""
        low, high = self.ticks[0], self.ticks[-1]
        value = min(max(value, low), high)
        if self.logarithmic:
            return log(value / low) / log(high / low)
        return (value - low) / (high - low)

    def text(self, tick: float) -> str:
        """A tick with its unit."""
        return f"{tick * 100:g} %" if self.unit == "%" else f"{tick:g}×"


@dataclass(frozen=True)
class Panel:
    """A part of the picture.

    Attributes:
        title: above it.
        rows: points of each step, by the step's name.
        value: of a point; None is not drawn.
        axis: of the values.
        strong: the value whose line is drawn strong.
        width: of the axis.
    """

    title: str
    rows: Mapping[str, Sequence[Point]]
    value: Callable[[Point], float | None]
    axis: Axis
    strong: float
    width: int

    @property
    def height(self) -> int:
        """With title and ticks; nothing without rows."""
        return HEAD + ROW * len(self.rows) + FOOT if self.rows else 0

    def draw(self, left: int, top: int, *, labelled: bool) -> str:
        """At a place; `labelled` has the steps' names to the left."""
        if not self.rows:
            return ""
        rows = "".join(
            self._row(name, points, HEAD + ROW * number + ROW / 2, labelled=labelled)
            for number, (name, points) in enumerate(self.rows.items())
        )
        title = f'<text y="14" font-size="12" font-weight="bold">{escape(self.title)}</text>'
        return f'<g transform="translate({left},{top})">{title}{self._grid()}{rows}</g>'

    def _grid(self) -> str:
        bottom = HEAD + ROW * len(self.rows)
        return "".join(
            f'<path d="M{self._x(tick):.1f} {HEAD - 4}V{bottom}" stroke="'
            f'{"#111827" if tick == self.strong else "#e5e7eb"}"/>'
            f'<text x="{self._x(tick):.1f}" y="{bottom + 14}" text-anchor="middle">'
            f"{self.axis.text(tick)}</text>"
            for tick in self.axis.ticks
        )

    def _row(self, name: str, points: Sequence[Point], y: float, *, labelled: bool) -> str:
        label = f'<text x="-10" y="{y + 3.5}" text-anchor="end">{escape(name)}</text>'
        line = f'<path d="M0 {y}H{self.width}" stroke="#f3f4f6"/>'
        marks = "".join(
            _mark(point.format, self._x(value), y)
            for point in reversed(points)
            if (value := self.value(point)) is not None
        )
        return (label if labelled else "") + line + marks

    def _x(self, value: float) -> float:
        return self.axis.place(value) * self.width


def svg(points: Sequence[Point], *, device: str) -> str:
    """The picture as text."""
    decode, prefill, stores = (_rows(points, stage) for stage in ("decode", "prefill", "store"))
    speed = Axis(_ticks(points), "×", logarithmic=True)
    share = Axis((0.0, 0.25, 0.5, 0.75, 1.0), "%")
    panels = [
        (
            Panel("Decoding: speed-up over bfloat16", decode, _speed_up, speed, 1.0, WIDE),
            Panel("Share of copy bandwidth", decode, _copy_share, share, 1.0, NARROW),
        ),
        (
            Panel("Prompts, store included: the same", prefill, _speed_up, speed, 1.0, WIDE),
            Panel("The store's part of a layer", stores, _store_share, _percent(points), 0, NARROW),
        ),
    ]
    body, top = "", TITLE + LEGEND
    for left, right in panels:
        apart = left.rows.keys() != right.rows.keys()
        body += left.draw(LABELS, top, labelled=True)
        body += right.draw(LABELS + WIDE + GAP + (LABELS - 20) * apart, top, labelled=apart)
        top += max(left.height, right.height)
    width = LABELS + WIDE + GAP + LABELS - 20 + NARROW + MARGIN
    title = f"Attention over a KV cache on {device}, one layer of a step"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top + MARGIN}" '
        f'font-family="sans-serif" font-size="10"><title>{escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{MARGIN}" y="24" font-size="15" font-weight="bold">{escape(title)}</text>'
        f"{_legend(points)}{body}</svg>\n"
    )


def _rows(points: Sequence[Point], stage: str) -> dict[str, list[Point]]:
    """Points of a stage by their step; what is usual is not said of each."""
    rows: dict[str, list[Point]] = {}
    for point in points:
        if point.stage == stage:
            rows.setdefault(point.shape.removesuffix(" g4 d128"), []).append(point)
    return rows


def _speed_up(point: Point) -> float | None:
    return None if point.format == "bf16" else point.vs_bf16


def _copy_share(point: Point) -> float | None:
    return point.copy_share


def _store_share(point: Point) -> float | None:
    return point.store_share


def _ticks(points: Sequence[Point]) -> list[float]:
    """As many as hold all speed-ups."""
    found = [value for point in points if (value := _speed_up(point))] or [1.0]
    first = max((i for i, tick in enumerate(TICKS) if tick <= min(found)), default=0)
    last = min((i for i, t in enumerate(TICKS) if t >= max(found)), default=len(TICKS) - 1)
    return list(TICKS[min(first, 2) : max(last, 4) + 1])


def _percent(points: Sequence[Point]) -> Axis:
    """From nothing to the largest part of the store."""
    most = max((point.store_share or 0.0 for point in points), default=0.0)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.25) if 4 * step >= most or step == 0.25)
    return Axis([step * number for number in range(5)], "%")


def _mark(name: str, x: float, y: float) -> str:
    """Ours are circles, rivals diamonds."""
    color = COLORS.get(name, OTHER)
    if name.startswith("kvarn_"):
        return f'<circle cx="{x:.1f}" cy="{y}" r="5" fill="{color}" fill-opacity="0.9"/>'
    return (
        f'<rect x="-3.8" y="-3.8" width="7.6" height="7.6" fill="{color}" fill-opacity="0.9" '
        f'transform="translate({x:.1f},{y}) rotate(45)"/>'
    )


def _legend(points: Sequence[Point]) -> str:
    drawn = {point.format for point in points}
    names = [name for name in COLORS if name in drawn]
    x, body = MARGIN + 6, ""
    for name in names:
        label = name.removeprefix("kvarn_").removesuffix("_g128")
        body += _mark(name, x, TITLE) + f'<text x="{x + 10}" y="{TITLE + 3.5}">{label}</text>'
        x += 34 + 6 * len(label)
    return body
