"""Small line charts as inline SVG: no script, colours from the page's CSS, readable in print and by a screen reader."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 54, 12, 26  # margins for the value ticks, the last value, air, the step ticks
POINTS = 400  # drawn at most; more than there are pixels

Point = tuple[float, float]
Place = Callable[[float, float], Point]  # (step, value) -> its place in the picture


def chart(
    title: str,
    points: Sequence[tuple[float, float | None]],
    *,
    marks: Sequence[tuple[float, str]] = (),
    lines: Sequence[tuple[float, str]] = (),
    low: float | None = None,
) -> str:
    """A line over (step, value) as an SVG element, its last value written at its end.

    A value that is None or not finite breaks the line. `marks` are (step, words) drawn as dotted verticals, `lines` are
    (value, words) drawn as dotted horizontals, `low` a value the axis must reach down to.
    """
    good = [(float(x), float(y)) for x, y in points if y is not None and math.isfinite(y)]
    if not good:
        return ""
    x0, x1 = 0.0, max(x for x, _ in points)
    y0, y1 = _range([y for _, y in good], [y for y, _ in lines] + ([] if low is None else [low]))
    x1 = x1 if x1 > x0 else 1.0

    def at(x: float, y: float) -> Point:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        y = min(max(y, y0), y1)
        return across, TOP + (y1 - y) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    label = f"{title}: from {number(good[0][1])} to {number(good[-1][1])} over steps {x0:,.0f} to {x1:,.0f}"
    body = [_value_axis(ticks(y0, y1, 3), at, x0), _step_axis(ticks(x0, x1, 3), at, y0)]
    for x, words in marks:
        if x0 <= x <= x1:
            across = at(x, y0)[0]
            line = f'<line class="mark" x1="{across:.1f}" x2="{across:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}">'
            body.append(f"{line}<title>{escape(words)}</title></line>")
    for y, words in lines:
        down = at(x0, y)[1]
        body.append(f'<line class="mark" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down:.1f}" y2="{down:.1f}"/>')
        body.append(f'<text x="{LEFT + 4}" y="{down - 4:.1f}">{escape(words)}</text>')
    body += _curve(points, at) + _last(good[-1], at)
    inside = "".join(body)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{inside}</svg>'


def _range(values: Sequence[float], also: Sequence[float]) -> Point:
    """Of the axis: the values without the outer hundredth when that is far out, all of `also`, and a little air."""
    ordered = sorted(values)
    first, last = ordered[0], ordered[-1]
    if len(ordered) >= 20:
        cut = max(1, len(ordered) // 100)
        inner0, inner1 = ordered[cut], ordered[-1 - cut]
        span = (inner1 - inner0) or abs(inner1) or 1.0
        first = inner0 if inner0 - first > 2 * span else first
        last = inner1 if last - inner1 > 2 * span else last
    first, last = min(first, *also, last), max(last, *also, first)
    air = 0.06 * (last - first) or 0.1 * abs(last) or 1.0
    return first if first in also else first - air, last + air


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten) inside [low, high], some `about` of them."""
    raw = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.7)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def number(x: float | None) -> str:
    """A value for people: three figures, thousands as k and millions as M: `0.0123`, `12.3`, `45k`."""
    if x is None or not math.isfinite(x):
        return "–"
    if x == 0:
        return "0"
    size = abs(x)
    if size >= 999_500:
        return f"{x / 1e6:.3g}M"
    if size >= 9_995:
        return f"{x / 1e3:.3g}k"
    if size >= 999.5:
        return f"{x:,.0f}"
    return f"{x:.3g}" if size >= 1e-3 else f"{x:.1e}".replace(".0e", "e").replace("e-0", "e-")


def _round(x: float) -> str:
    """A round value on an axis: `5k` where `number` says `5,000`."""
    return f"{x / 1e3:g}k" if 1e3 <= abs(x) < 1e6 else number(x)


def _value_axis(values: Sequence[float], at: Place, x0: float) -> str:
    parts = []
    for value in values:
        y = at(x0, value)[1]
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 7}" y="{y + 3.5:.1f}">{_round(value)}</text>')
    return "".join(parts)


def _step_axis(steps: Sequence[float], at: Place, y0: float) -> str:
    parts = [f'<text class="mid" x="{at(s, y0)[0]:.1f}" y="{HEIGHT - 8}">{_round(s)}</text>' for s in steps]
    return "".join(parts)


def _curve(points: Sequence[tuple[float, float | None]], at: Place) -> list[str]:
    pieces: list[list[Point]] = [[]]
    for x, y in points:
        if y is None or not math.isfinite(y):
            pieces.append([])
        else:
            pieces[-1].append((float(x), float(y)))
    drawn = []
    for piece in pieces:
        places = [at(x, y) for x, y in thin(piece)]
        if len(places) == 1:
            drawn.append(f'<circle class="dot" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="2"/>')
        elif places:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            drawn.append(f'<polyline class="curve" points="{path}"/>')
    return drawn


def _last(point: Point, at: Place) -> list[str]:
    x, y = at(*point)
    dot = f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    return [dot, f'<text class="value" x="{x + 7:.1f}" y="{y + 4:.1f}">{number(point[1])}</text>']


def thin(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """At most about `most` points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept: list[Point] = [points[0]]
    for i in range(0, len(points), size):
        part = points[i : i + size]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return [*kept, points[-1]]
