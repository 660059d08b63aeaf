"""Files of tables to columns of words: lines of other lengths left out and named, numbers written as people do understood."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import chain, pairwise
from typing import BinaryIO

from genloom.data.documents import Found
from genloom.data.files import Files, UnreadableError, noting, shown
from genloom.data.numerals import ways_of
from genloom.data.records import sheet
from genloom.data.schema import MISSING, NUMBER

WIDEST = 4096  # columns


class Words:
    """The rows of one or more files of the same columns, as columns of words."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.columns: list[list[str]] = []
        self.parts: list[tuple[str, int]] = []  # the delimiter and the first row of each file
        self.known: dict[str, str] = {}  # one object a word, however often it comes

    def __len__(self) -> int:
        return len(self.columns[0]) if self.columns else 0

    def head(self, names: list[str], delimiter: str) -> None:
        """Begin a file with these columns. Raises UnreadableError for others than those of the first."""
        if not self.names:
            self.names, self.columns = names, [[] for _ in names]
        elif names != self.names:
            odd = next((n for n in names if n not in self.names), names[0] if names else "none")
            raise UnreadableError(f"its columns are others than those of the first file, such as '{odd}'")
        self.parts.append((delimiter, len(self)))

    def add(self, row: list[str]) -> None:
        for column, cell in zip(self.columns, row, strict=True):
            word = cell.strip()
            column.append(self.known.setdefault(word, word))


def read(files: Files, found: Found, values: Mapping[str, Collection[str]] | None = None) -> Words:
    """All rows of the files, in order. What cannot be read goes to `found`. `values` of categories that are known already stay as
    they are written."""
    words = Words()
    for name in files.names:
        with noting(found.bad, name), files.open(name) as stream:
            _read(stream, name, words, found)
    _as_plain_numbers(words, found, values or {})
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
    words.head(names, delimiter)
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


def named(head: list[str]) -> list[str]:
    """Names of columns, each once: an empty one by its place, one that comes twice with a number."""
    names: list[str] = []
    for i, cell in enumerate(head):
        plain = cell.strip() or f"column {i + 1}"
        same = sum(n == plain or n.startswith(f"{plain}.") for n in names)
        names.append(f"{plain}.{same}" if plain in names else plain)
    return names


def _as_plain_numbers(words: Words, found: Found, values: Mapping[str, Collection[str]]) -> None:
    """Numbers that are written otherwise get a point alone: files of one delimiter come from one hand, and are looked at together.
    `values` that are known stay as they are, though they too show how the others may be written."""
    edges = [*(start for _, start in words.parts), len(words)]
    spans: dict[str, list[slice]] = {}
    for (delimiter, _), (start, end) in zip(words.parts, pairwise(edges), strict=True):
        spans.setdefault(delimiter, []).append(slice(start, end))
    for delimiter, own in spans.items():
        given = (set(chain.from_iterable(column[span] for span in own)) - MISSING for column in words.columns)
        seen = dict(zip(words.names, given, strict=True))
        ways, notes = ways_of(seen, delimiter)
        left = {name: cells.difference(values.get(name, ())) for name, cells in seen.items()}
        found.notes += sorted(note for name, note in notes.items() if left[name])
        for name, way in ways.items():
            column, plain = words.columns[words.names.index(name)], {word: way.plain(word) for word in left[name]}
            for span in own:
                column[span] = [plain.get(word, word) for word in column[span]]
