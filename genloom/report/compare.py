"""Runs side by side, as rows of plain values and as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genloom.report.curves import number
from genloom.report.story import Story, family

Row = dict[str, Any]


def compare_runs(folders: Sequence[Path]) -> list[Row]:
    """One row a run: run, model, data, minutes, steps, rate (items/s), and `metrics` by name with value, low and high.

    Raises UserError when a folder is no run.
    """
    return [
        {
            "run": str(story.run.folder),
            "model": story.model,
            "data": story.data,
            "minutes": story.last.get("seconds", 0.0) / 60,
            "steps": story.last.get("step", 0),
            "rate": story.rate,
            "metrics": {str(m["name"]): {k: m[k] for k in ("value", "low", "high")} for m in story.metrics},
        }
        for story in map(Story, folders)
    ]


def format_comparison(rows: Sequence[Row]) -> str:
    """A text table, a line a run; `*` marks the best of a metric, and every run whose interval meets the best one's."""
    names = _shared(rows)
    best = {n: _best(rows, n) for n in names}
    heads = [f"{n} {family(n)[1]}".strip() for n in names]
    table = [["run", "model", "data", "minutes", "steps", "items/s", *heads]]
    for i, row in enumerate(rows):
        rate = "–" if row["rate"] is None else f"{row['rate']:,.0f}"
        values = [number(row["metrics"].get(n, {}).get("value")) + ("*" if i in best[n] else " ") for n in names]
        told = [row["run"], row["model"], row["data"], f"{row['minutes']:.1f}", f"{row['steps']:,}", rate]
        table.append([*told, *values])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for line in table:
        cells = [c.ljust(w) if k < 3 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    notes = []
    if any(best.values()):
        notes.append("* best, or not to be told from the best by its interval")
    if names and len({row["data"] for row in rows}) > 1:
        notes.append("Figures of runs on different data are not marked: they cannot be held against each other.")
    if missing := [row["run"] for row in rows if not row["metrics"]]:
        notes.append(f"Not measured, or not since they went on: {', '.join(missing)}. Use `genloom evaluate RUN`.")
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _shared(rows: Sequence[Row]) -> list[str]:
    """Metrics that at least two runs have (all of them, for one run), in their order."""
    names = list(dict.fromkeys(n for row in rows for n in row["metrics"]))
    return [n for n in names if sum(n in row["metrics"] for row in rows) >= min(2, len(rows))]


def _best(rows: Sequence[Row], name: str) -> set[int]:
    """The rows that are best in a metric: none when runs on different data cannot be held against each other."""
    arrow = family(name)[1]
    having = {i: row["metrics"][name] for i, row in enumerate(rows) if name in row["metrics"]}
    if not arrow or len(having) < 2 or len({rows[i]["data"] for i in having}) > 1:
        return set()
    pick = min if arrow == "↓" else max
    first = pick(having.values(), key=lambda m: m["value"])
    return {i for i, m in having.items() if m["low"] <= first["high"] and first["low"] <= m["high"]}
