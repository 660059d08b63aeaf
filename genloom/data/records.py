"""CSV, TSV and Parquet files to records of cells: encodings and delimiters found out, stray quotes taken as letters."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from genloom.data import parquet_files
from genloom.data.documents import Found, beginning, text_of
from genloom.data.files import UnreadableError, suffix

TABLES = frozenset({".csv", ".tsv", ".parquet"})
CELL = 2**20  # characters of one cell: more is a mistake or an attack
DELIMITERS = ",;\t|"
SAID = re.compile(r'"?sep=(.)"?')  # Excel's own first line, which says the delimiter


class Sheet(NamedTuple):
    """A table as it is written. `rows` gives each record with the line it ends on (of Parquet: its number); the first holds the
    names of the columns. `delimiter` is empty where no sign parts cells."""

    delimiter: str
    rows: Iterator[tuple[int, list[str]]]


def sheet(stream: BinaryIO, name: str, found: Found) -> Sheet:
    """Raises UnreadableError, also while rows are read, for what is no table."""
    if suffix(name) == ".parquet":
        return Sheet("", parquet_files.records(stream))
    first, encoding, start = beginning(stream, name, found)
    begun = first[start:].decode(encoding, "replace").splitlines() or [""]
    told = SAID.fullmatch(begun[0])
    named = next((line for line in begun if re.search(r"\w", line)), begun[0])
    delimiter = told[1] if told else "\t" if suffix(name) == ".tsv" else _delimiter(named)
    lines = _lines(text_of(first, stream, encoding, start, name, found))
    if told:
        next(lines)  # before the rest is read: it is no record, and has not the width of one
    return Sheet(delimiter, _records(lines, delimiter, int(bool(told))))


def _delimiter(line: str) -> str:
    """What the line has most of, outside of quotes."""
    plain = re.sub(r'"[^"]*"', "", line)
    return max(DELIMITERS, key=plain.count)


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        for line in whole:
            yield line + "\n"
        if len(rest) > 8 * CELL:
            raise UnreadableError("a line without end")
    if rest:
        yield rest


class _Lines:
    """Lines as a reader takes them, that can be given back to it."""

    def __init__(self, lines: Iterator[str]):
        self.lines, self.back, self.taken = lines, deque[str](), list[str]()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.back.popleft() if self.back else next(self.lines)
        self.taken.append(line)
        return line


def _records(lines: Iterator[str], delimiter: str, number: int) -> Iterator[tuple[int, list[str]]]:
    """The records from the first that is not blank on, without blank lines, after `number` lines. Where a quote swallows lines that
    do not belong to it, its own line stands alone."""
    csv.field_size_limit(CELL)
    given, width = _Lines(lines), 0
    reader = csv.reader(given, delimiter=delimiter, strict=True)
    while True:
        given.taken = []
        try:
            row = next(reader)
            swallowed = len(given.taken) > 1 and len(row) != (width or len(row))
        except StopIteration:
            return
        except csv.Error:
            swallowed = True
        if swallowed:
            alone, *others = given.taken
            given.back.extendleft(reversed(others))
            given.taken, row = [alone], _alone(alone, delimiter, number + 1)
        number += len(given.taken)
        if any(cell.strip() for cell in row) or len(row) == width > 0:
            width = width or len(row)
            yield number, row


def _alone(line: str, delimiter: str, number: int) -> list[str]:
    """The cells of a line that is no CSV as the rules have it: where a quote has no other, quotes are letters."""
    try:
        if line.count('"') % 2:
            return next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_NONE))
        return next(csv.reader([line], delimiter=delimiter))
    except csv.Error:
        raise UnreadableError(f"line {number:,} has a cell of more than {CELL:,} characters") from None
