"""Files of tables to columns of words: lines of other lengths left out and named, numbers written as people do understood."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from genloom.data.documents import Found
from genloom.data.files import Files, UnreadableError, noting, shown
from genloom.data.records import sheet
from genloom.data.schema import MISSING, NUMBER

WIDEST = 4096  # columns
COMMA = re.compile(r"[+-]?\d+(,\d+)?")


class Words:
    """The rows of one or more files of the same columns, as columns of words."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.columns: list[list[str]] = []
        self.known: dict[str, str] = {}  # one object a word, however often it comes

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def head(self, names: list[str]) -> None:
        """Begin a file with these columns. Raises UnreadableError for others than those of the first."""
        if not self.names:
            self.names, self.columns = names, [[] for _ in names]
        elif names != self.names:
            odd = next((n for n in names if n not in self.names), names[0] if names else "none")
            raise UnreadableError(f"its columns are others than those of the first file, such as '{odd}'")

    def add(self, row: list[str]) -> None:
        for column, cell in zip(self.columns, row, strict=True):
            word = cell.strip()
            column.append(self.known.setdefault(word, word))


def read(files: Files, found: Found) -> Words:
    """All rows of the files, in order. What cannot be read goes to `found`."""
    words = Words()
    for name in files.names:
        with noting(found.bad, name), files.open(name) as stream:
            _read(stream, name, words, found)
    return words


def _read(stream: BinaryIO, name: str, words: Words, found: Found) -> None:
    delimiter, rows = sheet(stream, name, found)
    line, head = next(rows, (1, []))
    body: Iterator[tuple[int, list[str]]] = rows
    if head and all(NUMBER.fullmatch(cell.strip()) for cell in head):
        names = [f"column {i + 1}" for i in range(len(head))]
        found.notes.append(f"{shown(name)} has no line of names: its columns are called {names[0]}, …")
        body = chain([(line, head)], rows)
    else:
        names = named(head)
    if len(names) > WIDEST:
        raise UnreadableError(f"more than {WIDEST:,} columns")
    words.head(names)
    began, wrong = len(words), list[int]()
    for number, row in body:
        if len(row) == len(names):
            words.add(row)
        else:
            wrong.append(number)
    cells = f"{len(names)} cell{'s' * (len(names) != 1)}"
    if len(words) == began:
        raise UnreadableError(
            f"no row has {cells} as line {line:,}, its line of names, has"
            if wrong
            else "no row below its line of names"
        )
    if wrong:
        found.notes.append(
            f"{len(wrong):,} lines of {shown(name)} have not {cells} and are left out, the first line {wrong[0]:,}."
        )
    if delimiter == ";":
        _decimal_commas(words, began)


def named(head: list[str]) -> list[str]:
    """Names of columns, each once: an empty one by its place, one that comes twice with a number."""
    names: list[str] = []
    for i, cell in enumerate(head):
        plain = cell.strip() or f"column {i + 1}"
        same = sum(n == plain or n.startswith(f"{plain}.") for n in names)
        names.append(f"{plain}.{same}" if plain in names else plain)
    return names


def _decimal_commas(words: Words, began: int) -> None:
    """Where cells are parted by ; a comma in a number is its point."""
    for column in words.columns:
        given = [w for w in column[began:] if w not in MISSING]
        if any("," in w for w in given) and all(COMMA.fullmatch(w) for w in given):
            column[began:] = [w.replace(",", ".") for w in column[began:]]
