"""Which class a file belongs to: by the folder it lies in, or by a CSV or JSONL file that says so."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from genloom.data.files import shown, suffix
from genloom.errors import UserError, nearest

FILE_KEYS = ("file", "path", "filename", "file_name", "image", "name", "id")
LABEL_KEYS = ("label", "class", "category", "target", "label_name", "class_name")
SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}


@dataclass
class Labelled:
    """Files with their classes: `ids` [N] i64 into `classes`, both empty when there are none. `notes` say why."""

    names: list[str]
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def take(self, numbers: Sequence[int] | np.ndarray) -> None:
        """Keep those rows only."""
        self.names = [self.names[i] for i in numbers]
        self.ids = self.ids[numbers] if self.classes else self.ids

    def drop(self, names: Collection[str]) -> None:
        if names:
            self.take([i for i, name in enumerate(self.names) if name not in names])

    def counts(self) -> dict[str, int]:
        """How many files each class has."""
        return dict(zip(self.classes, np.bincount(self.ids, minlength=len(self.classes)).tolist(), strict=True))


def spread(count: int, over: int) -> np.ndarray:
    """`count` numbers below `over`, evenly spaced from the first to the last; all of them when there are fewer."""
    return np.linspace(0, over - 1, min(count, over)).round().astype(np.int64)


def common_folder(names: Sequence[str]) -> str:
    """The folder, with its "/", in which all of the sorted names lie; empty when that is the top."""
    shared = os.path.commonprefix([*names[:1], *names[-1:]])  # noqa: RUF071, cut at a slash below
    return shared[: shared.rfind("/") + 1]


def _tops(names: Sequence[str]) -> tuple[str, list[str]]:
    """The folder common to the sorted names, and which of its sub-folders each lies in: "" for one beside them."""
    base = common_folder(names)
    start = len(base)
    return base, [sys.intern(n[start : max(start, n.find("/", start))]) for n in names]  # millions share a few


def pick_split(names: list[str], split: str) -> list[str]:
    """Of files in folders named train and test (or val), those of this split; otherwise all, which is `train`.

    Raises UserError when there is no such split.
    """
    if split not in SPLITS:
        raise UserError(f"There is no split '{split}': choose train or test.")
    tops = _tops(names)[1]
    found = set(tops)
    wanted = next((folder for folder in SPLITS[split] if folder in found), None)
    if wanted and found <= {*SPLITS["train"], *SPLITS["test"]} and not found.isdisjoint(SPLITS["train"]):
        return [name for name, top in zip(names, tops, strict=True) if top == wanted]
    if split == "test":
        raise UserError("This data has no test split: put its files into folders named train and test.")
    return names


def held_out(names: list[str]) -> list[str]:
    """Of files in folders named train and test (or val), those of the test split; otherwise none."""
    try:
        return pick_split(names, "test")
    except UserError:
        return []


def by_folder(names: list[str], folders: set[str]) -> Labelled:
    """Classes are the top sub-folders (whatever lies deeper), when there are two or more and nothing lies beside them.

    `names` are sorted. Raises UserError when one of several class folders holds no usable file.
    """
    base, tops = _tops(names)
    found = set(tops) - {""}
    if len(found) < 2:
        return Labelled(names, notes=("No classes: there is one folder only.",) if base else ())
    if not all(tops):
        return Labelled(names, notes=("No classes: some files lie beside the sub-folders.",))
    there = {folder[len(base) :].partition("/")[0] for folder in folders if folder.startswith(base)}
    for top in sorted(there - found - {""}):
        raise UserError(f"Class folder '{shown(base + top)}' holds no picture: add some or remove the folder.")
    return number(names, tops)


def by_file(names: list[str], path: Path) -> Labelled:
    """Classes as a labels file gives them; files that it does not name are left out.

    Raises UserError when it names a file that is not there, or one twice with two labels.
    """
    known = spellings(names)
    found: dict[str, str] = {}
    for file, label in read_labels(path).items():
        name = known.get(file.replace("\\", "/").removeprefix("./"))
        if name is None:
            raise UserError(
                f"'{path}' labels '{file}', and there is no such picture: correct the name or remove the line."
            )
        if found.setdefault(name, label) != label:
            raise UserError(f"'{path}' gives '{file}' two labels, '{found[name]}' and '{label}': keep one.")
    labelled = number([n for n in names if n in found], [found[n] for n in names if n in found])
    if left := len(names) - len(found):
        labelled.notes = (f"{left:,} pictures are not named in {path.name} and were left out.",)
    return labelled


def spellings(names: list[str]) -> dict[str, str]:
    """Files as people name them: the whole path, that below the common folder, the bare name, that without ending.

    The fuller spelling wins, with its ending or without; one that two files share means neither.
    """
    base = len(common_folder(names))
    bare, below = [name.rpartition("/")[2] for name in names], [name[base:] for name in names]
    known: dict[str, str] = {}
    for spelt in (stems(bare), bare, stems(below), below, stems(names), names):
        uses = Counter(spelt)
        known |= {key: name for key, name in zip(spelt, names, strict=True) if uses[key] == 1}
    return known


def stems(names: Sequence[str]) -> list[str]:
    return [os.path.splitext(name)[0] for name in names]


def number(names: list[str], labels: list[str]) -> Labelled:
    """Number the classes: in order of their numbers where all are numbers, else of the alphabet."""
    unique = set(labels)
    numeric = all(c.isascii() and c.isdigit() for c in unique)
    classes = sorted(unique, key=lambda c: (int(c), c) if numeric else c)
    ids = {c: i for i, c in enumerate(classes)}
    return Labelled(names, np.fromiter((ids[c] for c in labels), np.int64, len(labels)), tuple(map(shown, classes)))


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────
def read_labels(path: Path) -> dict[str, str]:
    """File name -> label from a CSV (comma, semicolon or tab) or JSONL file.

    A CSV has a column such as file, path or filename and one such as label or class; a headless one has exactly two
    columns. Raises UserError that names the line when it cannot be understood.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The labels file '{path}' cannot be read as UTF-8 text: {error}.") from error
    return read_column(text, path, "label", LABEL_KEYS)


def read_column(text: str, path: Path, what: str, keys: tuple[str, ...]) -> dict[str, str]:
    """File name -> what the column of one of these names holds, in the text of such a file. Raises as `read_labels`."""
    rows = _jsonl(text, path) if suffix(path.name) in (".jsonl", ".ndjson", ".json") else _csv(text, path, what, keys)
    found: dict[str, str] = {}
    for line, record in rows:
        file, value = (record[column] for column in _columns(tuple(record), path, what, keys))
        if isinstance(value, list | dict):
            raise UserError(f"Line {line} of '{path}' has several {what}s: give each file one.")
        file, value = ("" if cell is None else str(cell).strip() for cell in (file, value))
        if not file or not value:
            raise UserError(f"Line {line} of '{path}' lacks a {what if file else 'file name'}: fill it in.")
        if found.setdefault(file, value) != value:
            raise UserError(f"'{path}' gives '{file}' two {what}s, '{found[file]}' and '{value}': keep one.")
    if not found:
        raise UserError(f"'{path}' is empty of {what}s: give it a line for each file.")
    return found


def _jsonl(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        try:
            record = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise UserError(f"Line {line} of '{path}' is not JSON: write one object a line.") from error
        if not isinstance(record, dict):
            raise UserError(f'Line {line} of \'{path}\' is not an object such as {{"file": …, "label": …}}.')
        yield line, record


def _csv(text: str, path: Path, what: str, keys: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise UserError(f"Line {reader.line_num} of '{path}' is not CSV: {error}.") from error
    head = rows[0][1] if rows else []
    if len(head) == 2 and not _find(head, FILE_KEYS + keys):
        head = ["file", what]  # no header: a file and its label
    else:
        rows = rows[1:]
    for line, row in rows:
        yield line, dict(zip_longest(head, row[: len(head)], fillvalue=""))


def _find(head: Sequence[str], keys: tuple[str, ...]) -> str | None:
    """The column that one of the keys names, in the order of the keys."""
    known = {column.strip().lower(): column for column in reversed(head)}
    return next((known[key] for key in keys if key in known), None)


@lru_cache  # the lines of a file have the same columns
def _columns(head: Sequence[str], path: Path, what: str, keys: tuple[str, ...]) -> tuple[str, str]:
    file, value = _find(head, FILE_KEYS), _find(head, keys)
    if file is None or value is None:
        missing, wanted = ("file", FILE_KEYS) if file is None else (what, keys)
        raise UserError(f"'{path}' has no column for the {missing}: name it {' or '.join(wanted[:3])}.")
    return file, value


def class_number(label: str, classes: tuple[str, ...]) -> int:
    """The class of that name, or of that number where no class has a number for its name."""
    if label in classes:
        return classes.index(label)
    if label.isdecimal() and int(label) < len(classes) and not any(name.isdecimal() for name in classes):
        return int(label)
    if not classes:
        raise UserError(f"This run was trained without classes: it makes none of label '{label}'. Leave --label out.")
    shown = ", ".join(classes[:20]) + (" …" if len(classes) > 20 else "")
    raise UserError(f"There is no class '{label}'.{nearest(label, classes)} Known: {shown}.")
