"""Cards that genloom writes anew and people write into: what stands in the places that are theirs is kept.

A place lies between two comments. The last line of a card holds the hash of all that lies outside of its places: so an edit
elsewhere is seen, and such a card is put aside before the new one is written, and never lost.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from itertools import count
from pathlib import Path
from string import Template

from genloom.run import atomic

HEAD = "head"  # the place in the front matter: its keys go before genloom's own
OPENED = re.compile(r"^(?:<!--|#) yours: ([\w-]+)", re.MULTILINE)
YOURS = re.compile(OPENED.pattern + r"(?: -->)?\n(.*?)(?:<!--|#) end of yours(?: -->)?", re.DOTALL | re.MULTILINE)
WRITTEN = re.compile(r"\n<!-- written by genloom, ([0-9a-f]{16}) -->\n?\Z")
FIELD = re.compile(r"([A-Za-z][\w-]*):(?:\s|$)")


def place(name: str, content: str = "") -> str:
    if name == HEAD:
        return f"# yours: {name}\n{content}# end of yours"
    return f"<!-- yours: {name} -->\n{content}<!-- end of yours -->"


def write(path: Path, template: str, **values: str) -> Path:
    """Write a card from its template, with what its reader wrote in the places of the one before.

    Paragraphs of the template that come out empty are left out.
    """
    paragraphs = (Path(__file__).parent / template).read_text(encoding="utf-8").strip().split("\n\n")
    text = "\n\n".join(filter(None, (Template(p).substitute(values) for p in paragraphs))) + "\n"
    kept = _kept(path, set(OPENED.findall(text)))
    text = _without(YOURS.sub(lambda m: place(m[1], kept.get(m[1]) or m[2]), text), kept.get(HEAD, ""))
    with atomic(path) as temporary:
        temporary.write_text(f"{text}\n<!-- written by genloom, {_outside(text)} -->\n", encoding="utf-8")
    return path


def check(path: Path) -> list[str]:
    """What is amiss with a card, a sentence each: edits outside of its places, places that do not end, a head that is no
    YAML, and places where nobody has said anything yet."""
    text = _read(path)
    places, found = dict(YOURS.findall(text)), []
    if not _as_written(text):
        found.append(f"'{path}' was edited outside of its places: genloom will put it aside when it writes it anew.")
    found += [f"The place '{k}' of '{path}' does not end." for k in OPENED.findall(text) if k not in places]
    for line in places.get(HEAD, "").splitlines():
        if line.strip() and not re.match(r"\s+\S|- |#", line) and not FIELD.match(line):
            found.append(f"'{line.strip()}' in the head of '{path}' is no `key: value`.")
    empty = [k for k, content in places.items() if not content.strip() and k != HEAD]
    if empty:
        found.append(f"'{path}' says nothing yet in its places {', '.join(empty)}: they are yours to fill.")
    return found


def _kept(path: Path, names: set[str]) -> dict[str, str]:
    """What stands in the places of the card that is there. One that would lose something is put aside."""
    if not path.is_file():
        return {}
    text = _read(path)
    kept = {k: v if v.endswith("\n") else f"{v}\n" for k, v in YOURS.findall(text) if v.strip()}
    if not _as_written(text) or kept.keys() - names:
        names_aside = (path.with_name(f"{path.stem}.edited{i or ''}{path.suffix}") for i in count())
        aside = next(p for p in names_aside if not p.exists())
        os.replace(path, aside)
        note = f"'{path}' was edited outside of its places, or is none of genloom's: it is kept as '{aside.name}'."
        print(f"genloom: {note}", file=sys.stderr)
    return kept


def _read(path: Path) -> str:
    """A card whatever editor saved it: lines may end as on Windows, and a byte-order mark may stand before the first."""
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _as_written(text: str) -> bool:
    found = WRITTEN.search(text)
    return found is not None and found[1] == _outside(text[: found.start()])


def _outside(text: str) -> str:
    return hashlib.sha256(YOURS.sub(lambda m: place(m[1]), text).encode()).hexdigest()[:16]


def _without(text: str, head: str) -> str:
    """The card without those lines of genloom's own front matter whose keys the reader's head has."""
    keys = {m[1] for line in head.splitlines() if (m := FIELD.match(line))}
    own, mark, rest = text.partition(f"# yours: {HEAD}\n")
    lines = [line for line in own.splitlines(keepends=True) if line.split(":")[0] not in keys]
    return "".join([*lines, mark, rest])
