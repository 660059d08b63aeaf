"""Which class a file belongs to: by the folder it lies in, or by a CSV or JSONL file that says so."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from genloom.data.files import shown, suffix
from genloom.errors import UserError

FILE_KEYS = ("file", "path", "filename", "file_name", "image", "name", "id")
LABEL_KEYS = ("label", "class", "category", "target", "label_name", "class_name")
SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}


@dataclass
class Labelled:
    """Files with their classes: `ids` [N] i64 into `classes`, both empty when there are none. `notes` say why."""

    names: list[str]
    ids: np.ndarray
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def take(self, numbers: np.ndarray) -> None:
        """Keep those rows only."""
        self.names = [self.names[i] for i in numbers]
        self.ids = self.ids[numbers] if self.classes else self.ids

    def keep(self, drop: Collection[str]) -> None:
        """Drop these names."""
        if drop:
            self.take(np.array([i for i, name in enumerate(self.names) if name not in drop], np.int64))


def without(names: list[str], *notes: str) -> Labelled:
    return Labelled(names, np.zeros(0, np.int64), (), notes)


def common_folder(names: Sequence[str]) -> str:
    """The folder, with its "/", in which all of the sorted names lie; empty when that is the top."""
    if not names:
        return ""
    parts = []
    for a, b in zip(names[0].split("/")[:-1], names[-1].split("/")[:-1], strict=False):
        if a != b:
            break
        parts.append(a + "/")
    return "".join(parts)


def pick_split(names: list[str], split: str) -> list[str]:
    """Of files in folders named train and test (or val), those of this split; otherwise all, which is `train`.

    Raises UserError when there is no such split.
    """
    if split not in SPLITS:
        raise UserError(f"There is no split '{split}': choose train or test.")
    base = len(common_folder(names))
    tops = {n[base:].split("/", 1)[0] if "/" in n[base:] else "" for n in names}
    if tops <= {folder for both in SPLITS.values() for folder in both} and tops & set(SPLITS["train"]):
        wanted = next((folder for folder in SPLITS[split] if folder in tops), None)
        if wanted:
            return [n for n in names if n[base:].startswith(wanted + "/")]
    if split == "test":
        raise UserError("This data has no test split: put its files into folders named train and test.")
    return names


def by_folder(names: list[str], folders: set[str]) -> Labelled:
    """Classes are the top sub-folders (whatever lies deeper), when there are two or more and nothing lies beside them.

    `names` are sorted. Raises UserError when one of several class folders holds no usable file.
    """
    base = common_folder(names)
    tops = [sys.intern(n[len(base) : n.find("/", len(base)) + 1]) for n in names]  # interned: millions share a few
    found = set(tops) - {""}
    if len(found) < 2:
        return without(names, *(("No classes: there is one folder only.",) if base else ()))
    if not all(tops):
        return without(names, "No classes: some files lie beside the sub-folders.")
    empty = {f[len(base) :] + "/" for f in folders if f.startswith(base)} - found
    for top in sorted(f for f in empty if f.count("/") == 1):
        raise UserError(f"Class folder '{shown(base + top[:-1])}' holds no picture: add some or remove the folder.")
    return number(names, [top[:-1] for top in tops])


def by_file(names: list[str], path: Path) -> Labelled:
    """Classes as a labels file gives them; files that it does not name are left out.

    Raises UserError when it names a file that is not there, or one twice with two labels.
    """
    said = read_labels(path)
    found: dict[str, str] = {}
    lookup = _Lookup(names)
    for file, label in said.items():
        name = lookup(file)
        if name is None:
            raise UserError(
                f"'{path}' labels '{file}', and there is no such picture: correct the name or remove the line."
            )
        if found.setdefault(name, label) != label:
            raise UserError(f"'{path}' gives '{file}' two labels, '{found[name]}' and '{label}': keep one.")
    kept = [n for n in names if n in found]
    left = len(names) - len(kept)
    labelled = number(kept, [found[n] for n in kept])
    labelled.notes = (f"{left:,} pictures are not named in {path.name} and were left out.",) if left else ()
    return labelled


def number(names: list[str], labels: list[str]) -> Labelled:
    """Number the classes: in order of their numbers where all are numbers, else of the alphabet."""
    unique = set(labels)
    numeric = all(c.isascii() and c.isdigit() for c in unique)
    classes = sorted(unique, key=lambda c: (int(c), c) if numeric else c)
    ids = {c: i for i, c in enumerate(classes)}
    return Labelled(names, np.fromiter((ids[c] for c in labels), np.int64, len(labels)), tuple(map(shown, classes)))


class _Lookup:
    """Files as people name them: the whole path, that below the common folder, the bare name, that without ending."""

    def __init__(self, names: list[str]):
        base = len(common_folder(names))
        self.maps: list[dict[str, str | None]] = [{}, {}, {}, {}]
        for name in names:
            bare = name.rpartition("/")[2]
            for table, key in zip(
                self.maps, (name, name[base:], bare, bare[: len(bare) - len(suffix(bare))]), strict=True
            ):
                table[key] = name if table.get(key, name) == name else None  # two files of one name: neither

    def __call__(self, file: str) -> str | None:
        file = file.replace("\\", "/").removeprefix("./")
        return next((name for table in self.maps if (name := table.get(file))), None)


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
    rows: Iterator[tuple[int, str, str]] = iter(())
    if text.strip():
        rows = _jsonl(text, path) if suffix(path.name) in (".jsonl", ".ndjson", ".json") else _csv(text, path)
    labels: dict[str, str] = {}
    for line, file, label in rows:
        if not file or not label:
            raise UserError(f"Line {line} of '{path}' lacks a {'label' if file else 'file name'}: fill it in.")
        if labels.setdefault(file, label) != label:
            raise UserError(f"'{path}' gives '{file}' two labels, '{labels[file]}' and '{label}': keep one.")
    if not labels:
        raise UserError(f"The labels file '{path}' is empty: give it a line for each picture.")
    return labels


def _jsonl(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    for line, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        try:
            record = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise UserError(f"Line {line} of '{path}' is not JSON: write one object a line.") from error
        if not isinstance(record, dict):
            raise UserError(f'Line {line} of \'{path}\' is not an object such as {{"file": …, "label": …}}.')
        file, label = _columns([str(k) for k in record], path)
        if isinstance(record[label], list | dict):
            raise UserError(f"Line {line} of '{path}' has several labels: give each picture one.")
        yield line, _text(record[file]), _text(record[label])


def _csv(text: str, path: Path) -> Iterator[tuple[int, str, str]]:
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        head = next(reader, [])
        if len(head) == 2 and not _find(head, FILE_KEYS + LABEL_KEYS):  # no header: a file and its label
            yield 1, head[0].strip(), head[1].strip()
            file, label = 0, 1
        else:
            file, label = (head.index(key) for key in _columns(head, path))
        for row in reader:
            if any(cell.strip() for cell in row):
                cells = [cell.strip() for cell in row] + [""] * len(head)
                yield reader.line_num, cells[file], cells[label]
    except csv.Error as error:
        raise UserError(f"Line {reader.line_num} of '{path}' is not CSV: {error}.") from error


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _find(head: list[str], keys: tuple[str, ...]) -> str | None:
    """The column that one of the keys names, in the order of the keys."""
    known = {column.strip().lower(): column for column in reversed(head)}
    return next((known[key] for key in keys if key in known), None)


def _columns(head: list[str], path: Path) -> tuple[str, str]:
    file, label = _find(head, FILE_KEYS), _find(head, LABEL_KEYS)
    if file is None or label is None:
        what, keys = ("file", FILE_KEYS) if file is None else ("label", LABEL_KEYS)
        raise UserError(f"'{path}' has no column for the {what}: name it {' or '.join(keys[:3])}.")
    return file, label
