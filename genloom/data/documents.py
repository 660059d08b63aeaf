"""Text files to documents: encodings found out, broken bytes named, nothing large held whole."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from genloom.data.files import Files, UnreadableError, noting, shown, suffix
from genloom.errors import UserError

BLOCK = 4 * 2**20  # bytes read at once
LINE = 64 * 2**20  # bytes of one JSON line: more is a mistake or an attack
LOOKED_AT = 256 * 2**10  # bytes from which an encoding is told
ROLES = ("system", "user", "assistant", "tool")


@dataclass
class Turn:
    """A piece of an example; `learnt`: the loss counts on it."""

    role: str
    text: str
    learnt: bool


@dataclass
class Document:
    """`pieces` in order make one text; an example to learn answers from has `turns` in their place."""

    name: str
    pieces: Iterator[str]
    turns: list[Turn] = field(default_factory=list)


@dataclass
class Found:
    """What reading found out on its way: files left out with the reason, and what a person should know."""

    bad: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def documents(files: Files, found: Found) -> Iterator[Document]:
    """Every document of the files, in order: a JSON line each, or a whole file. What cannot be read goes to `found`."""
    for name in files.names:
        with noting(found.bad, name), files.open(name) as stream:
            read = lines if suffix(name) in (".jsonl", ".ndjson") else whole
            yield from read(stream, name, found)


def whole(stream: BinaryIO, name: str, found: Found) -> Iterator[Document]:
    """A plain text as one document."""
    first, encoding, start = beginning(stream, name, found)
    yield Document(shown(name), text_of(first, stream, encoding, start, name, found))


def beginning(stream: BinaryIO, name: str, found: Found) -> tuple[bytes, str, int]:
    """How a text begins, its encoding, and how many bytes of it are a mark. Raises UnreadableError for what is no text."""
    first = stream.read(LOOKED_AT)
    if not first.strip():
        raise UnreadableError("empty")
    encoding, start = told(first)
    if encoding not in ("utf-8", "utf-8-sig"):
        found.notes.append(f"{shown(name)} is read as {encoding}.")
    return first, encoding, start


def text_of(first: bytes, stream: BinaryIO, encoding: str, start: int, name: str, found: Found) -> Iterator[str]:
    """The text in blocks, lines ended by "\n" alone; bytes that are no text become U+FFFD, and are named once."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    newlines = io.IncrementalNewlineDecoder(None, translate=True)  # the "\n" of a "\r" may come in the next block
    block, at, broken = first[start:], start, -1
    while block:
        text = decoder.decode(block)
        if "\ufffd" in text and broken < 0:
            broken = at + len(text[: text.index("\ufffd")].encode(encoding, "replace"))
        yield newlines.decode(text)
        at += len(block)
        block = stream.read(BLOCK)
    yield newlines.decode(decoder.decode(b"", final=True), final=True)
    if broken >= 0:
        found.notes.append(f"{shown(name)} holds bytes that are no {encoding}, the first near byte {broken:,}.")


def told(first: bytes) -> tuple[str, int]:
    """An encoding by how a file begins, and how many bytes of it are a mark. Raises UnreadableError for what is no text."""
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if first.startswith(mark):
            return encoding, len(mark)
    if b"\0" in first or sum(b < 32 and b not in (9, 10, 12, 13, 27) for b in first) > len(first) // 20:
        raise UnreadableError("binary, not a text")
    if errors(first, "utf-8") * 500 <= len(first):  # a few broken bytes in a sound text
        return "utf-8", 0
    if not errors(first, "gb18030") and chinese(first.decode("gb18030", "ignore")):
        return "gb18030", 0
    return "cp1252" if not errors(first, "cp1252") else "latin-1", 0


def errors(raw: bytes, encoding: str) -> int:
    """How many places cannot be decoded; a character cut off at the end is none."""
    return codecs.getincrementaldecoder(encoding)("replace").decode(raw).count("\ufffd")


def chinese(text: str) -> bool:
    """Whether common Chinese characters make up what is not ASCII.

    A Latin letter with an accent and the plain one after it read as a Chinese character too, but seldom two such bytes.
    """
    others = [c for c in text[:20_000] if ord(c) > 127]
    if sum(c.encode("gb18030")[1] > 127 for c in others) * 2 < len(others):
        return False
    return sum("\u4e00" <= c <= "\u9fa5" or c in "，。、；：？！“”《》（）　" for c in others) > 0.9 * len(others) > 0


def lines(stream: BinaryIO, name: str, found: Found) -> Iterator[Document]:
    """JSON lines: `text`, or `prompt` and `response`, or chat `messages`. A line that is none is named and left out."""
    number, wrong = 0, 0
    while line := stream.readline(LINE + 1):
        number += 1
        if len(line) > LINE:
            raise UnreadableError(f"line {number} is longer than {LINE >> 20} MB")
        if not line.strip():
            continue
        try:
            yield example(f"{shown(name)}:{number}", json.loads(line.decode("utf-8-sig")))
        except (ValueError, RecursionError, UnreadableError) as error:
            wrong += 1
            if wrong == 1:
                found.bad[f"{shown(name)}:{number}"] = str(error) if isinstance(error, UnreadableError) else "no JSON"
    if wrong > 1:
        found.notes.append(f"{wrong:,} lines of {shown(name)} cannot be used.")
    if not number:
        raise UnreadableError("empty")


def example(name: str, row: Any) -> Document:
    """One JSON line. Raises UnreadableError for one of another form."""
    if not isinstance(row, dict):
        raise UnreadableError('not an object such as {"text": …}')
    if isinstance(text := row.get("text"), str):
        return Document(name, iter([text]))
    prompt = row.get("prompt", row.get("instruction"))
    answer = row.get("response", row.get("completion", row.get("output")))
    if isinstance(prompt, str) and isinstance(answer, str):
        return Document(name, iter(()), [Turn("user", prompt, False), Turn("assistant", answer, True)])
    messages = row.get("messages")
    if isinstance(messages, list) and messages and all(map(is_message, messages)):
        turns = [Turn(m["role"], m["content"], m["role"] == "assistant") for m in messages]
        if any(t.learnt for t in turns):
            return Document(name, iter(()), turns)
        raise UnreadableError("no message of the assistant")
    raise UnreadableError("no text, no prompt and response, no messages")


def is_message(m: Any) -> bool:
    return isinstance(m, dict) and m.get("role") in ROLES and isinstance(m.get("content"), str)


def nothing_usable(where: str, found: Found) -> UserError:
    if not found.bad:
        return UserError(f"'{where}' holds no text: give a .txt, .md or .jsonl file, or a folder of them.")
    name, why = next(iter(found.bad.items()))
    return UserError(f"No text in '{where}' can be used, such as '{name}': {why}.")
