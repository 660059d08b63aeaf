"""Tables: rows of numbers, dates and categories, some of them not given; CSV, TSV or Parquet."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom.core import Batch, Spec, mix
from genloom.data import table_files
from genloom.data.base import DataOptions, Dataset
from genloom.data.catalog import Entry
from genloom.data.documents import Found
from genloom.data.files import Files, digest, streams
from genloom.data.records import TABLES
from genloom.data.schema import MISSING, Column, found_out, read_schema
from genloom.errors import UserError, unknown
from genloom.run import make_folder, writing

SUFFIXES = TABLES
FEWEST = 20  # rows
LONG = 1e9  # numbers from here on may be a person's (a telephone, a card): three digits of them are shown


@dataclass(frozen=True)
class TableOptions(DataOptions):
    """How tables become items."""

    target: str | None = None  # a category whose values are the classes: to make rows of each, and to predict
    leave_out: str | None = None  # columns not to learn: name,customerID
    categories: int = 256  # values of a category that stay apart; rarer ones are made as (other)
    schema: Path | None = None  # a JSON list of columns, with their ranges and values, in place of what the data shows
    held_out: float = 0.1  # share of the rows kept out of training

    def __post_init__(self) -> None:
        """Raises UserError for a value that makes no sense."""
        self.check(
            ("categories", self.categories >= 2, "2 or more"),
            ("held_out", 0 <= self.held_out <= 0.5, "a share from 0 to 0.5"),
        )


OPTIONS = TableOptions


# ── from disk, or by name ────────────────────────────────────────────────────────────────────────────────────────────
def from_path(path: Path, *, split: str = "train", like: Spec | None = None, **given: Any) -> Dataset:
    """The rows of a file, or of all files of a folder, zip or tar; options are those of TableOptions.

    Raises UserError when no row can be used.
    """
    return make(streams(path, SUFFIXES), path.resolve().name, str(path), TableOptions.of(given), split, like)


def from_catalog(entry: Entry, *, split: str = "train", like: Spec | None = None, **given: Any) -> Dataset:
    return make(streams(entry.load(split), SUFFIXES), entry.name, entry.name, TableOptions.of(given), split, like)


def make(files: Files, name: str, where: str, options: TableOptions, split: str, like: Spec | None) -> Dataset:
    """Read all, find out what the columns are, and give the split that is wanted."""
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    found = Found()
    words, columns, numbers = read_columns(files, options, like, where, found)
    if not columns:
        raise UserError(f"'{where}' holds no column that can be learnt: {' '.join(found.notes) or 'none is left'}")
    rows = len(words)
    if rows < FEWEST:
        raise UserError(f"'{where}' holds {rows} rows: {FEWEST} or more are needed to learn from.")
    target = find_target(columns, options, like)
    classes = _classes(columns[target]) if target is not None else ()
    extra: dict[str, Any] = {
        "columns": [c.to_json() for c in columns],
        "target": target,
        "described": options.schema is not None,
    }
    drawn = like is None or bool(like.extra.get("drawn"))  # an older run is read as it was trained
    extra |= {"drawn": True} if drawn else {}
    spec = Spec("table", (len(columns),), classes, extra)
    out = (drawn_rows if drawn else every_kth)(rows, options.held_out)
    print_ = digest(files.fingerprint, options, *(["drawn"] if drawn else []))
    summary = {
        "items": int((~out).sum()),
        "kind": "rows",
        "held_out": int(out.sum()),
        "columns": {c.name: kind_of(c) for c in columns},
        "skipped": {"count": len(found.bad), "files": dict(list(found.bad.items())[:20])},
        "notes": found.notes,
    }
    sets = {
        which: TableSet(name, spec, f"{print_[:-1]}{int(which == 'test')}", summary, [x[part] for x in numbers])
        for which, part in (("train", ~out), ("test", out))
    }
    if split == "test" and not out.any():
        raise UserError(f"'{where}' holds out no rows: give --data.held-out 0.1.")
    if split == "train" and out.any():
        sets["train"].test = lambda: sets["test"]
    return sets[split]


def drawn_rows(rows: int, share: float) -> np.ndarray:
    """bool [rows]: that share of them, to the row, drawn by their number alone: the same wherever the file lies.

    By a seed that nobody else is likely to take: the rows of made-up data are often drawn by 0 themselves.
    """
    count = max(round(rows * share), 1) if share else 0
    out = np.zeros(rows, bool)
    out[np.argsort(np.random.PCG64(mix(0x5EED)).random_raw(rows), kind="stable")[:count]] = True
    return out


def every_kth(rows: int, share: float) -> np.ndarray:
    """bool [rows], as runs have it whose Spec does not say that theirs were drawn."""
    every = round(1 / share) if share else 0
    return np.arange(rows) % every == every - 1 if every else np.zeros(rows, bool)


def described_by(options: TableOptions, like: Spec | None) -> list[Column]:
    """The columns that are known before anyone looks: those of that Spec, else of the schema; none where neither is given."""
    if like:
        return [Column.from_json(c) for c in like.extra["columns"]]
    return read_schema(options.schema) if options.schema else []


def values_of(columns: list[Column]) -> dict[str, tuple[str, ...]]:
    return {c.name: c.values for c in columns if c.kind == "category"}


def read_columns(
    files: Files, options: TableOptions, like: Spec | None, where: str, found: Found
) -> tuple[table_files.Words, list[Column], list[np.ndarray]]:
    """The words of all rows, what the columns are that are learnt, and their numbers [N] f64 each.

    Raises UserError when no row can be used, and for a column that is not there.
    """
    described = described_by(options, like)
    words = table_files.read(files, found, values_of(described))
    if not len(words):
        raise nothing_usable(where, found)
    columns = columns_of(words, options, described, where, found)
    by_name = dict(zip(words.names, words.columns, strict=True))
    numbers = [c.read(by_name[c.name]) for c in columns]
    for i, (column, x) in enumerate(zip(columns, numbers, strict=True)):
        if options.schema and not like:
            check_told(column, by_name[column.name], x)
        lost = np.isnan(x) if column.kind != "category" else x >= column.codes
        if lost.any() and not column.missing:
            found.notes.append(
                f"{int(lost.sum()):,} cells of '{column.name}' are none of what the schema has: taken as near."
            )
            near = float(np.median(column.knots)) if column.kind != "category" else column.codes - 1.0
            numbers[i] = np.where(lost, near, x)
    return words, columns, numbers


def columns_of(
    words: table_files.Words, options: TableOptions, described: list[Column], where: str, found: Found
) -> list[Column]:
    """What the columns are: as they are described, or as the words show. Raises UserError for a column that is not there."""
    left = [n.strip() for n in options.leave_out.split(",")] if options.leave_out else []
    for name in left:
        if name not in words.names:
            raise unknown("column", name, words.names)
    if not described:
        kept = [i for i, name in enumerate(words.names) if name not in left]
        seen = found_out([words.names[i] for i in kept], [words.columns[i] for i in kept], options.categories)
        found.notes += seen.notes
        return seen.columns
    columns = [c for c in described if c.name not in left]
    for column in columns:
        if column.name not in words.names:
            raise UserError(f"'{where}' has no column '{column.name}': it has {', '.join(words.names[:20])}.")
    return columns


def check_told(column: Column, words: list[str], numbers: np.ndarray) -> None:
    """Raises UserError for a column of which no cell is what the schema says."""
    given = np.array([w not in MISSING for w in words])
    fits = np.isfinite(numbers) if column.kind != "category" else numbers < len(column.values)
    if given.any() and not (given & fits).any():
        what = "one of its values" if column.kind == "category" else f"a {column.kind}"
        form = f" of the form {column.form}" if column.form else ""
        raise UserError(f"No cell of '{column.name}' is {what}{form}, as the schema has it: mend its line there.")


def find_target(columns: list[Column], options: TableOptions, like: Spec | None) -> int | None:
    """The number of the column whose values are the classes. Raises UserError for one that is no category."""
    if options.target is None:
        return like.extra["target"] if like else None
    names = [c.name for c in columns]
    if options.target not in names:
        raise unknown("column", options.target, names)
    target = names.index(options.target)
    if columns[target].kind != "category":
        kinds = ", ".join(c.name for c in columns if c.kind == "category")
        raise UserError(f"--data.target {options.target} is a {columns[target].kind}: give a category, of {kinds}.")
    return target


def _classes(column: Column) -> tuple[str, ...]:
    return (*column.values, *(["(none)"] if column.missing else []))


def kind_of(column: Column) -> str:
    """`number, 0 to 72`, `category of 4`, `date, 2021-01-01 to 2021-12-31, some missing`."""
    if column.kind == "category":
        what = f"category of {len(column.values)}"
    else:
        ends = np.array([column.knots[0], column.knots[-1]])
        low, high = column.words(ends)
        if column.kind == "number" and abs(ends).max() >= LONG:
            low, high = (f"{x:.3g}" for x in ends)
        what = f"{column.kind}, {low} to {high}"
    return what + (", some missing" if column.missing else "")


def nothing_usable(where: str, found: Found) -> UserError:
    if not found.bad:
        return UserError(f"'{where}' holds no table: give a .csv, .tsv or .parquet file, or a folder of them.")
    name, why = next(iter(found.bad.items()))
    return UserError(f"No table in '{where}' can be used, such as '{name}': {why}.")


# ── items ────────────────────────────────────────────────────────────────────────────────────────────────────────────
class TableSet(Dataset):
    """Rows. `table` [B, C] f32 has a column's quantile in [-1, 1], NaN where none is given, or its code (schema.Column).

    `numbers` are the columns as they were read, f64 [N] each.
    """

    unit = "row"

    def __init__(self, name: str, spec: Spec, fingerprint: str, summary: dict[str, Any], numbers: list[np.ndarray]):
        self.name, self.spec, self.fingerprint, self.summary = name, spec, fingerprint, summary
        self.numbers = numbers
        columns = [Column.from_json(c) for c in spec.extra["columns"]]
        places = [c.place(x) for c, x in zip(columns, numbers, strict=True)]
        self.table = torch.from_numpy(np.stack(places, 1))  # [N, C]

    def __len__(self) -> int:
        return len(self.table)

    def labels(self) -> Tensor | None:
        target = self.spec.extra["target"]
        return None if target is None else self.table[:, target].long()

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        rows = self.table[torch.from_numpy(np.asarray(indices, np.int64))]
        target = self.spec.extra["target"]
        return {"table": rows} | ({} if target is None else {"label": rows[:, target].long()})


# ── to disk ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def numbers_of(table: Tensor, spec: Spec) -> list[np.ndarray]:
    """Rows [N, C] as a model makes them -> each column's numbers as if read, f64 [N]."""
    columns = [Column.from_json(c) for c in spec.extra["columns"]]
    return [c.number(x.numpy()) for c, x in zip(columns, table.float().cpu().unbind(1), strict=True)]


def write(table: Tensor, out: Path, *, spec: Spec, names: list[str] | None = None) -> list[Path]:
    """All rows as one CSV file, rows.csv or under that name. Raises UserError when the folder cannot be written."""
    columns = [Column.from_json(c) for c in spec.extra["columns"]]
    words = [c.words(x) for c, x in zip(columns, numbers_of(table, spec), strict=True)]
    path = out / (names[0] if names else "rows.csv")
    make_folder(out)
    with writing(path), open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([c.name for c in columns])
        writer.writerows(zip(*words, strict=True))
    return [path]


def read_sources(path: Path, spec: Spec, *, targets: bool = False) -> tuple[Tensor, list[str]]:
    """A table whose empty cells are to be made, [N, C] with NaN there, and the name of what comes of it.

    Columns that are not there are made whole. Raises UserError for a table that cannot be used, or a cell that is none of
    what the run knows.
    """
    del targets
    found, columns = Found(), [Column.from_json(c) for c in spec.extra["columns"]]
    words = table_files.read(streams(path, SUFFIXES), found, values_of(columns))
    if not len(words):
        raise nothing_usable(str(path), found)
    by_name = dict(zip(words.names, words.columns, strict=True))
    known = {c.name for c in columns}
    if odd := next((n for n in words.names if n not in known), ""):
        raise unknown("column", odd, known)
    cells = []
    for column in columns:
        own = by_name.get(column.name, [""] * len(words))
        numbers, empty = column.read(own), np.array([w in MISSING for w in own])
        bad = ~empty & (np.isnan(numbers) if column.kind != "category" else numbers >= len(column.values))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise UserError(
                f"Row {row + 1} of '{path}' has '{own[row]}' under '{column.name}', which takes a {kind_of(column)}."
            )
        cells.append(np.where(empty, np.nan, column.place(numbers)).astype(np.float32))
    return torch.from_numpy(np.stack(cells, 1)), [f"{path.resolve().stem}.csv"]  # of the folder '.' too
