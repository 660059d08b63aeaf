"""How the columns of a table are spread, real beside made, as small inline SVG charts; and the rows nearest to training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, BOTTOM, TOP = 220, 120, 22, 6
NAMED = 4  # bars up to which each has its name below
LETTER = 6.2  # width of one, about


def columns(found: Sequence[Mapping[str, Any]]) -> str:
    """A chart a column, of what evaluate kept in metrics.json; empty where there is none."""
    if not found:
        return ""
    charts = [f"<figure>{_bars(c)}<figcaption><b>{escape(str(c['name']))}</b></figcaption></figure>" for c in found]
    note = "Shares of rows: real ones filled, made ones outlined."
    return f'<div class="columns">{"".join(charts)}</div><p class="note">{note}</p>'


def _bars(column: Mapping[str, Any]) -> str:
    real, made, names = column["real"], column["made"], [str(x) for x in column["bars"]]
    count, top = max(len(real), 1), max([*real, *made, 1e-9])
    step = WIDTH / count
    body = []
    for i, (a, b) in enumerate(zip(real, made, strict=True)):
        for share, kind, inset in ((a, "real", 0.06), (b, "made", 0.2)):
            high = (HEIGHT - BOTTOM - TOP) * share / top
            box = f'x="{(i + inset) * step:.1f}" y="{HEIGHT - BOTTOM - high:.1f}" width="{(1 - 2 * inset) * step:.1f}"'
            said = f"{_name(names, i, count)}: {100 * a:.1f} % of real rows, {100 * b:.1f} % of made ones"
            body.append(f'<rect class="{kind}" {box} height="{high:.1f}"><title>{escape(said)}</title></rect>')
    if len(names) > count:  # edges
        body.append(f'<text x="0" y="{HEIGHT - 6}">{escape(names[0])}</text>')
        body.append(f'<text class="end" x="{WIDTH}" y="{HEIGHT - 6}">{escape(names[-1])}</text>')
    else:
        shown = range(count) if count <= NAMED else (0,)
        body += [
            f'<text class="mid" x="{(i + 0.5) * step:.1f}" y="{HEIGHT - 6}">{escape(_cut(names[i], step))}</text>'
            for i in shown
        ]
    label = f"{column['name']}: shares of real and made rows"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(body)}</svg>'


def _name(names: list[str], i: int, count: int) -> str:
    return f"{names[i]} to {names[i + 1]}" if len(names) > count else names[i]


def _cut(name: str, room: float) -> str:
    most = int(room / LETTER)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def nearest(found: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """The rows that an audit found nearest to training rows, each above that, cells that differ marked."""
    if not found:
        return ""
    rows = []
    for pair in found:
        differ = [a != b for a, b in zip(pair["made"], pair["training"], strict=True)]
        for what, cells in (("made", pair["made"]), ("training", pair["training"])):
            inside = "".join(
                f"<td>{f'<b>{escape(c)}</b>' if odd else escape(c)}</td>" for c, odd in zip(cells, differ, strict=True)
            )
            rows.append(f"<tr><td>{what}</td>{inside}</tr>")
    head = "".join(f"<th>{escape(n)}</th>" for n in names)
    note = "The made rows that are nearest to training rows, nearest first; cells that differ are bold."
    return (
        f'<div class="wide rows"><table><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<p class="note">{note}</p>'
    )
