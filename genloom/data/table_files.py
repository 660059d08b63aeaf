"""CSV, TSV and Parquet files to columns of words: delimiters and encodings found out, broken lines named."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, BinaryIO

import numpy as np

from genloom.data.documents import Found, beginning, text_of
from genloom.data.files import Files, UnreadableError, noting, shown, suffix
from genloom.data.schema import EPOCH, MISSING, NUMBER
from genloom.errors import needs_extra

WIDEST = 4096  # columns
CELL = 2**20  # characters of one cell: more is a mistake or an attack
DELIMITERS = ",;\t|"
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
            (_parquet if suffix(name) == ".parquet" else _csv)(stream, name, words, found)
    return words


def _csv(stream: BinaryIO, name: str, words: Words, found: Found) -> None:
    first, encoding, start = beginning(stream, name, found)
    sample = first[start:].decode(encoding, "replace")
    delimiter = "\t" if suffix(name) == ".tsv" else _delimiter(sample)
    csv.field_size_limit(CELL)
    lines = _lines(text_of(first, stream, encoding, start, name, found))
    rows = csv.reader(lines, delimiter=delimiter, strict=False)
    try:
        head = next(rows, [])
        if head and all(NUMBER.fullmatch(cell.strip()) for cell in head):
            names = [f"column {i + 1}" for i in range(len(head))]
            found.notes.append(f"{shown(name)} has no line of names: its columns are called {names[0]}, …")
            body: Iterator[list[str]] = iter([head])
        else:
            names, body = named(head), iter(())
        if len(names) > WIDEST:
            raise UnreadableError(f"more than {WIDEST:,} columns")
        words.head(names)
        began, wrong = len(words), list[int]()
        for part in (body, rows):
            for row in part:
                if len(row) == len(names):
                    words.add(row)
                elif any(cell.strip() for cell in row):
                    wrong.append(rows.line_num)
    except csv.Error as error:
        raise UnreadableError(f"line {rows.line_num:,}: {error}") from None
    if wrong:
        found.notes.append(
            f"{len(wrong):,} lines of {shown(name)} have not {len(names)} cells and are left out, the first line {wrong[0]:,}."
        )
    if len(words) == began:
        raise UnreadableError("no row below its line of names")
    if delimiter == ";":
        _decimal_commas(words, began)


def _delimiter(sample: str) -> str:
    """What the first line has most of, outside of quotes."""
    line = re.sub(r'"[^"]*"', "", sample.split("\n", 1)[0])
    return max(DELIMITERS, key=line.count)


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


def _parquet(stream: BinaryIO, name: str, words: Words, found: Found) -> None:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise needs_extra("pyarrow", "table", "Reading Parquet") from None
    try:
        table = parquet.ParquetFile(io.BytesIO(stream.read())).read()
        names = named(list(table.column_names))
        columns = [
            _words(column, own) for column, own in zip(table.columns, names, strict=True)
        ]  # all, or none is kept
        words.head(names)
        for place, column in zip(words.columns, columns, strict=True):
            place += [words.known.setdefault(word, word) for word in column]
    except OverflowError:
        raise UnreadableError("it holds dates beyond the year 9999, or before the year 1") from None
    except (arrow.ArrowException, OSError) as error:
        raise UnreadableError(f"no whole Parquet file ({str(error).splitlines()[0]})") from None


def _words(column: Any, name: str) -> list[str]:
    """The cells of a column of Parquet, written as a CSV file would have them; instants of any time zone in UTC."""
    import pyarrow as arrow
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        return _words(column.cast(kind.value_type), name)
    if types.is_nested(kind):
        raise UnreadableError(f"the cells of its column '{name}' hold several values each: write the file without it")
    if types.is_time(kind):
        clock = column.cast(arrow.time64("us"), safe=False).to_pylist()
        exact = "microseconds" if any(x and x.microsecond for x in clock) else "seconds"
        return _told([None if x is None else x.isoformat(exact) for x in clock])
    if types.is_timestamp(kind):
        zone = "Z" if kind.tz else ""
        passed = column.cast(arrow.timestamp("us", kind.tz), safe=False).cast(arrow.int64()).to_pylist()
        times = [None if x is None else EPOCH + timedelta(microseconds=x) for x in passed]
        exact = "microseconds" if any(x and x.microsecond for x in times) else "seconds"
        return _told([None if x is None else x.isoformat("T" if zone else " ", exact) + zone for x in times])
    if types.is_duration(kind):
        passed = column.cast(arrow.duration("us"), safe=False).cast(arrow.int64()).to_pylist()
        return _told([None if x is None else str(x / 1e6) for x in passed])
    if types.is_float16(kind) or types.is_float32(kind):  # 0.1, which in 64 bits is 0.10000000149011612
        return _told([None if x is None else str(np.float32(x)) for x in column.to_pylist()])
    if types.is_decimal(kind):
        return _told([None if x is None else f"{x:f}" for x in column.to_pylist()])
    return _told([x.decode("utf-8", "replace") if isinstance(x, bytes) else x for x in column.to_pylist()])


def _told(cells: list[Any]) -> list[str]:
    return ["" if x is None else str(x).strip() for x in cells]
