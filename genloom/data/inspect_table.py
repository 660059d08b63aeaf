"""The preflight of tables: what each column is, what fit would do with it, and which rows are there twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from genloom.data import resolve
from genloom.data.catalog import Entry
from genloom.data.documents import Found
from genloom.data.files import streams
from genloom.data.personal import hidden
from genloom.data.preflight import INDENT, copies, report, same, unreadable
from genloom.data.schema import MISSING, Column
from genloom.data.table import FEWEST, SUFFIXES, TableOptions, kind_of, read_columns
from genloom.errors import printable

VALUES = 4  # of a category that are named
SHARED = 5  # rows that have a value in common, at least, where it is named: a value of one row may be a person's


def inspect(source: str | Path, **given: Any) -> dict[str, Any]:
    """Keys: source, kind, rows, columns (of each its name, kind, missing, distinct and common values, personal data masked), duplicates (groups of
    row numbers, the first row 1), unreadable (name: why), notes, problems. Raises UserError when nothing can be read."""
    options, found, seen = TableOptions.of(given), resolve(source), Found()
    files = streams(found.load("train") if isinstance(found, Entry) else found, SUFFIXES)
    where = found.name if isinstance(found, Entry) else str(found)
    words, columns, _ = read_columns(files, options, None, where, seen)
    about = found.notes() if isinstance(found, Entry) else []
    if len(words) < FEWEST:
        about.append(f"fit needs {FEWEST} rows or more.")
    known = {c.name: c for c in columns}
    rows = enumerate(zip(*words.columns, strict=True), 1)
    return {
        "source": where,
        "kind": "built in" if isinstance(found, Entry) else files.kind,
        "rows": len(words),
        "columns": [_told(n, own, known.get(n)) for n, own in zip(words.names, words.columns, strict=True)],
        "duplicates": same((f"row {number}", row) for number, row in rows),
        "unreadable": seen.bad,
        "notes": [*about, *map(hidden, seen.notes)],
        "problems": [] if columns else ["No column can be learnt: fit would refuse this table."],
    }


def _told(name: str, words: list[str], column: Column | None) -> dict[str, Any]:
    counts = Counter(words)
    missing = sum(counts.pop(w, 0) for w in MISSING)
    common = [hidden(w) for w, count in counts.most_common(VALUES) if count >= SHARED]
    what = kind_of(column) if column else "left out"
    return {"name": hidden(name), "kind": what, "missing": missing, "distinct": len(counts), "common": common}


def format_report(facts: dict[str, Any]) -> str:
    """What `inspect` found, as lines to read."""
    width = max(len(c["name"]) for c in facts["columns"])
    told = [
        f"{c['name']:<{width}}  {c['kind']}"
        + (f" ({c['missing']:,})" if c["missing"] else "")
        + (f": {', '.join(c['common'])}{' …' * (c['distinct'] > len(c['common']))}" if "category" in c["kind"] else "")
        for c in facts["columns"]
    ]
    rows = [
        ("rows", f"{facts['rows']:,}"),
        ("columns", INDENT.join([f"{len(told)}", *map(printable, told)])),
        ("copies", copies(facts)),
        ("unreadable", unreadable(facts)),
    ]
    return report(facts, rows)
