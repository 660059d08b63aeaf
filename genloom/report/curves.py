"""Small line charts as inline SVG: no script, colours from the page's CSS, readable in print and by a screen reader."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 54, 12, 26  # margins for the value ticks, the last value, air, the step ticks
POINTS = 400  # drawn at most; more than there are pixels

Point = tuple[float, float]


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
    line = [(float(x), math.nan if y is None else float(y)) for x, y in points]
    good = [p for p in line if math.isfinite(p[1])]
    if not good:
        return ""
    x1 = max(x for x, _ in line) or 1.0
    y0, y1 = _range([y for _, y in good], [y for y, _ in lines] + ([] if low is None else [low]))

    def across(x: float) -> float:
        return round(LEFT + x / x1 * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(TOP + (y1 - min(max(y, y0), y1)) / (y1 - y0) * (HEIGHT - TOP - BOTTOM), 1)

    body = []
    for y in ticks(y0, y1, 3):
        body.append(f'<path class="rule" d="M{LEFT},{down(y)}H{WIDTH - RIGHT}"/>')
        body.append(f'<text class="end" x="{LEFT - 7}" y="{down(y)}" dy="3.5">{_round(y)}</text>')
    body += [f'<text class="mid" x="{across(x)}" y="{HEIGHT - 8}">{_round(x)}</text>' for x in ticks(0, x1, 3)]
    for x, words in marks:
        if x <= x1:
            path = f'<path class="mark" d="M{across(x)},{TOP}V{HEIGHT - BOTTOM}">'
            body.append(f"{path}<title>{escape(words)}</title></path>")
    for y, words in lines:
        body.append(f'<path class="mark" d="M{LEFT},{down(y)}H{WIDTH - RIGHT}"/>')
        body.append(f'<text x="{LEFT + 4}" y="{down(y)}" dy="-4">{escape(words)}</text>')
    for drawn, piece in groupby(line, key=lambda p: math.isfinite(p[1])):
        if drawn:
            places = [f"{across(x)},{down(y)}" for x, y in thin(list(piece))]
            path = " ".join(places if len(places) > 1 else 2 * places)  # by its round ends a lone point is a dot
            body.append(f'<polyline class="curve" points="{path}"/>')
    x, y = good[-1]
    body.append(f'<circle class="dot" cx="{across(x)}" cy="{down(y)}" r="3"/>')
    body.append(f'<text class="value" x="{across(x)}" y="{down(y)}" dx="7" dy="4">{number(y)}</text>')
    label = f"{title}: from {number(good[0][1])} to {number(y)} over steps 0 to {x1:,.0f}"
    inside = "".join(body)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{inside}</svg>'


def _range(values: Sequence[float], also: Sequence[float]) -> Point:
    """Of the axis: the values without the outer hundredth when that is far out, all of `also`, and a little air."""
    ordered = sorted(values)
    cut = max(1, len(ordered) // 100) if len(ordered) >= 20 else 0
    first, last = ordered[cut], ordered[-1 - cut]
    far = 2 * ((last - first) or abs(last) or 1.0)
    low = first if first - ordered[0] > far else ordered[0]
    high = last if ordered[-1] - last > far else ordered[-1]
    low, high = min(low, *also, high), max(high, *also, low)
    air = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low if low in also else low - air, high + air


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


def thin(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """At most about `most` points: of each stretch the lowest and the highest, so that no spike is lost."""
    size = math.ceil(2 * len(points) / most)
    kept = {points[0], points[-1]}
    for i in range(0, len(points), size):
        part = points[i : i + size]
        kept |= {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
    return sorted(kept)
