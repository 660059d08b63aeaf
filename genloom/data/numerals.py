"""Numbers as people write them, 1.234,5 or 1,234.5 or 1 234, to numbers with a point: column by column, where it is certain.

A way of writing is a decimal mark and a mark between thousands. Of those that all cells of a column fit, all must give the same
numbers; where they do not (1,234 is more than a thousand, or a little more than one), another column of the same kind of file
decides, or the cells stay as they are. Cells that look like names (telephones, addresses of machines, codes) stay so too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from genloom.data.schema import NUMBER

SPACES = " \u00a0\u2009\u202f"
SHAPED = re.compile(rf"[+-]?\d[\d.,'’{SPACES}]*")  # what a number may look like, however it is written
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})?")  # a plain number in which the point may stand between thousands
SAME = str.maketrans({"’": "'"} | dict.fromkeys(SPACES, " "))
CALLED = {".": "points", ",": "commas", " ": "spaces", "'": "apostrophes"}


class Way(NamedTuple):
    """A decimal mark, a mark between thousands, and what a cell must be that is written so."""

    decimal: str
    thousands: str
    form: re.Pattern[str]

    def plain(self, word: str) -> str:
        return word.translate(SAME).replace(self.thousands, "").replace(self.decimal, ".")

    def told(self, words: Iterable[str]) -> str:
        """What stands in these cells, in words."""
        marks = {sign for word in words for sign in word.translate(SAME)}
        decimal = [f"decimal {CALLED[self.decimal]}"] if self.decimal in marks else []
        return " and ".join(
            [*decimal, *([f"{CALLED[self.thousands]} between thousands"] if self.thousands in marks else [])]
        )


def _way(decimal: str, thousands: str) -> Way:
    whole = rf"(?:0|[1-9]\d*|[1-9]\d{{0,2}}(?:{re.escape(thousands)}\d{{3}})+)"
    return Way(decimal, thousands, re.compile(rf"[+-]?{whole}(?:{re.escape(decimal)}\d+)?"))


WAYS = [_way(decimal, thousands) for decimal in ".," for thousands in ".,' " if thousands != decimal]


def ways_of(columns: Mapping[str, Collection[str]], delimiter: str) -> tuple[dict[str, Way], dict[str, str]]:
    """For columns of different cells, from files of one delimiter: how those are written that are no plain numbers yet, and what
    a person should know of each."""
    plain = {name: words for name, words in columns.items() if words and all(map(NUMBER.fullmatch, words))}
    shaped = {
        n: words for n, words in columns.items() if words and n not in plain and all(map(SHAPED.fullmatch, words))
    }
    shaped |= {n: words for n, words in plain.items() if all(map(GROUPED.fullmatch, words))}
    fitting = {name: fits for name, words in shaped.items() if (fits := _fitting(words))}
    known = {n: fits[0] for n, fits in fitting.items() if _certain(fits, shaped[n], delimiter)}
    decimals = {mark for n, way in known.items() if (mark := _decimal(way, shaped[n]))}
    if any("." in word for n, words in plain.items() if n not in shaped for word in words):
        decimals.add(".")
    notes = {}
    for name in fitting.keys() - known.keys():
        marks = decimals or ({","} if delimiter == ";" and name not in plain else set())
        left = [way for way in fitting[name] if {way.decimal} == marks]
        if left and _agree(left, shaped[name]):
            known[name] = left[0]
        elif name not in plain:
            notes[name] = (
                f"'{name}' is left as text, for it may have decimal commas or not: write 1,5 as 1.5 and 1,500 as 1500."
            )
    told = {name: known[name].told(shaped[name]) for name in columns if name in known}
    told = {name: what for name, what in told.items() if what not in ("", "decimal points")}
    notes |= {name: f"'{name}' is read as numbers with {what}." for name, what in told.items()}
    return {name: known[name] for name in told}, notes


def _fitting(words: Collection[str]) -> list[Way]:
    """The ways that all cells may be written in, but for what looks like names; of those that differ in what is not there, one."""
    plain = [word.translate(SAME) for word in words]
    marks = set("".join(plain))
    told = {tuple(sign * (sign in marks) for sign in (way.decimal, way.thousands)): way for way in WAYS}
    return [way for way in told.values() if all(map(way.form.fullmatch, plain)) and not _names(way, plain)]


def _names(way: Way, words: Collection[str]) -> bool:
    """Whether cells in groups of three digits are telephones, addresses of machines or codes: all of three groups or more, or with a
    plus and no minus among them, or parted by spaces and all of as many digits."""
    mark = way.thousands
    if mark not in ". " or not any(mark in word for word in words) or any(way.decimal in word for word in words):
        return False
    signs = {word[0] for word in words} & {"+", "-"}
    digits = {sum(sign.isdigit() for sign in word) for word in words}
    return min(word.count(mark) for word in words) > 1 or signs == {"+"} or (mark == " " and len(digits) == 1)


def _certain(ways: Sequence[Way], words: Collection[str], delimiter: str) -> bool:
    """Whether it needs no other column to tell. Where commas part cells, one within a cell may part the items of a list."""
    first = ways[0]
    listed = first.decimal == "," and delimiter in ("", ",") and first.told(words) == "decimal commas"
    return _agree(ways, words) and not listed


def _agree(ways: Sequence[Way], words: Iterable[str]) -> bool:
    return len(ways) == 1 or all(len({way.plain(word) for way in ways}) == 1 for word in words)


def _decimal(way: Way, words: Collection[str]) -> str:
    """The decimal mark that these cells prove; empty where they prove none."""
    told = way.told(words)
    return way.decimal if told.startswith("decimal") or (way.thousands in ".," and told) else ""
