"""A trace as an SVG: sizes and the work over time above, late requests below."""

from collections import Counter
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from bench.autoscaler.compare import Result, Scene
from bench.autoscaler.oracle import SLOT_SECONDS

WIDTH, LEFT, RIGHT = 860, 52, 190
SIZES_HEIGHT, LATE_HEIGHT, GAP, TOP = 250, 120, 46, 36
COLORS = ("#0b6e4f", "#b3261e", "#c77700", "#1f5fa8", "#6b7280")
WORK_COLOR = "#d9dee5"
BINS = 120
WORK_WINDOW_SECONDS = 60.0

Points = Sequence[tuple[float, float]]


class Frame:
    """A panel: maps time and a value to a place."""

    def __init__(self, *, top: float, height: float, span: float, most: float) -> None:
        self.top, self.height, self.span, self.most = top, height, span, max(most, 1e-9)

    def place(self, seconds: float, value: float) -> str:
        """The place in the picture."""
        x = LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.span
        y = self.top + self.height * (1 - min(value / self.most, 1))
        return f"{x:.1f},{y:.1f}"

    def line(self, points: Points, color: str) -> str:
        """A polyline."""
        places = " ".join(self.place(*point) for point in points)
        return f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="1.6"/>'

    def area(self, points: Points, color: str) -> str:
        """The area below `points`."""
        closed = [(points[0][0], 0.0), *points, (points[-1][0], 0.0)]
        places = " ".join(self.place(*point) for point in closed)
        return f'<polygon points="{places}" fill="{color}"/>'

    def axes(self, title: str) -> str:
        """Grid, ticks and title."""
        lines = []
        for value in _ticks(self.most):
            y = self.place(0, value).split(",")[1]
            lines.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="#e5e7eb"/>'
                f'<text x="{LEFT - 6}" y="{y}" dy="3" text-anchor="end">{value:g}</text>'
            )
        unit, name = (3600.0, "h") if self.span > 2 * 3600 else (60.0, "min")
        for value in _ticks(self.span / unit):
            x, y = self.place(value * unit, 0).split(",")
            lines.append(
                f'<text x="{x}" y="{y}" dy="14" text-anchor="middle">{value:g} {name}</text>'
            )
        heading = f'<text x="{LEFT}" y="{self.top - 8}" font-size="12">{escape(title)}</text>'
        return heading + "".join(lines)


def svg(scene: Scene, results: Mapping[str, Result], *, title: str) -> str:
    """The picture as text; at most as many policies as there are colours."""
    span = scene.requests[-1].arrival
    shown = list(results)[: len(COLORS)]
    colors = dict(zip(shown, COLORS, strict=False))
    height = TOP + SIZES_HEIGHT + GAP + LATE_HEIGHT + 24
    body = _sizes(scene, results, colors, span) + _late(results, colors, span)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="10"><title>{escape(title)}</title>'
        f'<rect width="100%" height="100%" fill="#fff"/>{body}{_legend(results, colors)}'
        f'<text x="{LEFT}" y="14" font-size="13" font-weight="bold">{escape(title)}</text></svg>\n'
    )


def _sizes(
    scene: Scene, results: Mapping[str, Result], colors: Mapping[str, str], span: float
) -> str:
    work = scene.work.smooth(WORK_WINDOW_SECONDS).servers
    sizes = {name: [(m.seconds, float(m.wanted)) for m in results[name].moments] for name in colors}
    ours = max(size for _, size in next(iter(sizes.values())))
    frame = Frame(
        top=TOP + 6,
        height=SIZES_HEIGHT - 6,
        span=span,
        most=1.35 * max(ours, *work),
    )
    area = [(slot * SLOT_SECONDS, each) for slot, each in enumerate(work)]
    lines = "".join(
        frame.line(_steps(sizes[name]), color) for name, color in reversed(list(colors.items()))
    )
    return frame.area(area, WORK_COLOR) + frame.axes("replicas") + lines


def _late(results: Mapping[str, Result], colors: Mapping[str, str], span: float) -> str:
    width = span / BINS
    bins = {
        name: Counter(min(int(at / width), BINS - 1) for at in results[name].late)
        for name in colors
    }
    per_minute = 60 / width
    most = max((count for counter in bins.values() for count in counter.values()), default=1)
    frame = Frame(
        top=TOP + SIZES_HEIGHT + GAP, height=LATE_HEIGHT, span=span, most=most * per_minute
    )
    lines = "".join(
        frame.line([((i + 0.5) * width, bins[name][i] * per_minute) for i in range(BINS)], color)
        for name, color in reversed(list(colors.items()))
    )
    return frame.axes("late first tokens, each minute") + lines


def _steps(points: Points) -> Points:
    """`points` as stairs, drawn only where they change."""
    stairs: list[tuple[float, float]] = [points[0]]
    for seconds, value in points[1:]:
        if value != stairs[-1][1]:
            stairs += [(seconds, stairs[-1][1]), (seconds, value)]
    return [*stairs, (points[-1][0], stairs[-1][1])]


def _legend(results: Mapping[str, Result], colors: Mapping[str, str]) -> str:
    x, lines = WIDTH - RIGHT + 14, []
    for row, (name, color) in enumerate(colors.items()):
        y, found = TOP + 16 + 36 * row, results[name].summary
        lines.append(
            f'<rect x="{x}" y="{y - 8}" width="12" height="4" fill="{color}"/>'
            f'<text x="{x + 18}" y="{y - 2}" font-size="12">{escape(name)}</text>'
            f'<text x="{x + 18}" y="{y + 11}" fill="#555">{found.gpu_hours:.2f} GPU-hours, '
            f"{found.ttft_violations:.2%} late</text>"
        )
    y = TOP + 16 + 36 * len(colors)
    lines.append(
        f'<rect x="{x}" y="{y - 10}" width="12" height="8" fill="{WORK_COLOR}"/>'
        f'<text x="{x + 18}" y="{y - 2}">work, in busy servers</text>'
    )
    return "".join(lines)


def _ticks(most: float) -> list[float]:
    """Round values up to `most`, four to eight of them."""
    step = next(
        size * 10.0**power
        for power in range(-4, 6)
        for size in (1, 2, 5)
        if most / (size * 10.0**power) <= 8
    )
    return [i * step for i in range(int(most / step) + 1)]
