"""All that is written in files, as lines with their places: plain texts, JSON lines value by value, tables cell by cell."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from genloom.data.documents import LINE, LOOKED_AT, Found, text_of, told
from genloom.data.files import READING, Files, UnreadableError, shown, suffix
from genloom.data.personal import hidden
from genloom.data.records import TABLES, sheet

LINES = frozenset({".jsonl", ".ndjson"})
WRITTEN = frozenset({".txt", ".md", ".text", ".json", ".html", ".xml", ".srt", ".vtt", ".log", *TABLES, *LINES})
BLOCK = 2**20  # characters that are looked at together; a longer line is cut at a space


class Block(NamedTuple):
    """Lines of a file, and the place of each by its number in the block: `notes.txt:12`, `people.csv:3 (mail)`."""

    text: str
    place: Callable[[int], str]


@dataclass
class Values:
    """Values of JSON lines or tables, gathered until there are enough of them: a line each."""

    name: str
    rows: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # the first value of each row of the file
    lines: list[int] = field(default_factory=list)  # and which line of the file that is
    keys: list[str] = field(default_factory=list)  # of each value
    size: int = 0

    def add(self, line: int, pairs: Iterator[tuple[str, str]]) -> None:
        self.starts.append(len(self.rows))
        self.lines.append(line)
        for key, value in pairs:
            self.keys.append(key)
            self.rows.append(" | ".join(value.splitlines()))
            self.size += len(value)

    def block(self) -> Block:
        def place(row: int) -> str:
            return f"{self.name}:{self.lines[bisect_right(self.starts, row) - 1]} ({hidden(self.keys[row])})"

        return Block("\n".join(self.rows), place)


def blocks(files: Files, bad: dict[str, str]) -> Iterator[Block]:
    """All that is written in the files, in order. What cannot be read goes to `bad`, with the reason."""
    for name in files.names:
        try:
            with files.open(name) as stream:
                kind = suffix(name)
                if kind in TABLES:
                    yield from gathered(shown(name), cells(stream, name))
                elif kind in LINES:
                    yield from gathered(shown(name), objects(stream))
                else:
                    yield from plain(stream, name)
        except READING as error:
            bad[shown(name)] = str(error)


def gathered(name: str, rows: Iterator[tuple[int, Iterator[tuple[str, str]]]]) -> Iterator[Block]:
    values = Values(name)
    for line, pairs in rows:
        values.add(line, pairs)
        if values.size > BLOCK:
            yield values.block()
            values = Values(name)
    yield values.block()


def plain(stream: BinaryIO, name: str) -> Iterator[Block]:
    """A text in blocks of whole lines."""
    first = stream.read(LOOKED_AT)
    if not first.strip():
        return
    encoding, start = told(first)
    line, held = 1, ""
    for piece in text_of(first, stream, encoding, start, name, Found()):
        held += piece
        if len(held) >= BLOCK:
            cut = held.rfind("\n") + 1 or held.rfind(" ") + 1 or len(held)
            yield _numbered(held[:cut], shown(name), line)
            line, held = line + held.count("\n", 0, cut), held[cut:]
    yield _numbered(held, shown(name), line)


def _numbered(text: str, name: str, first: int) -> Block:
    return Block(text, lambda row: f"{name}:{first + row}")


def objects(stream: BinaryIO) -> Iterator[tuple[int, Iterator[tuple[str, str]]]]:
    """JSON lines: (line, the values in it with their keys); a line that is none is one value."""
    number = 0
    while line := stream.readline(LINE + 1):
        number += 1
        if len(line) > LINE:
            raise UnreadableError(f"line {number} is longer than {LINE >> 20} MB")
        try:
            yield number, leaves(json.loads(line.decode("utf-8-sig")))
        except (ValueError, RecursionError):
            yield number, iter([("no JSON", line.decode("utf-8", "replace"))])


def leaves(value: Any) -> Iterator[tuple[str, str]]:
    """The texts and numbers in a JSON value, each with the keys that lead to it."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{path}.{k}" if path else str(k), v) for k, v in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(path, v) for v in reversed(value)]
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
            yield path, str(value)


def cells(stream: BinaryIO, name: str) -> Iterator[tuple[int, Iterator[tuple[str, str]]]]:
    """A table: (line, its cells with the names of their columns); the first row, which names the columns, is looked at too."""
    names: list[str] = []
    for line, row in sheet(stream, name, Found()).rows:
        names = names or [n.strip()[:40] or f"column {i + 1}" for i, n in enumerate(row)]
        yield line, ((names[i] if i < len(names) else f"column {i + 1}", c) for i, c in enumerate(row))
