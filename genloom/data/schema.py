"""What the columns of a table are: found out from their words, and the way from words to numbers and back.

Every number goes by its quantile: a place in [-1, 1] among `knots`, which are values of the data evenly spaced in rank. So a
column is spread evenly whatever its distribution, and a value that many rows share takes as much room as it has rows. A
category goes by its number among `values`, the number after the last standing for none given.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from genloom.errors import UserError, unknown

MISSING = frozenset({"", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "#N/A", "<NA>"})
KINDS = ("number", "date", "category")
OTHER = "(other)"  # what rare categories are called together
KNOTS = 256  # stretches between quantiles
DATES: tuple[str, ...] = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%d %H:%M",
    "%Y/%m/%d",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d.%m.%Y",
    "%d-%b-%Y",
    "%Y年%m月%d日",
    "%Y-%m-%d %H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S.%fZ",
    "%H:%M",
    "%H:%M:%S",
    "%H:%M:%S.%f",
)
EPOCH = datetime(1970, 1, 1)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
BARE = re.compile(r"%-([dmH])")  # parts of a date without a leading zero
CODED = re.compile(r"[+-]?0\d")  # a leading zero is of a code, such as a postcode, not of a number
PARTED = re.compile(r"(?<=[a-z])(?=[A-Z])|[^a-zA-Z]+")  # where customerID and CUSTOMER_ID begin another word
NAMED_ID = frozenset({"id", "uid", "uuid"})  # the first or last word of an identifier's name
NUMBERED = frozenset({"nr", "no", "num", "number"})  # the last one: a number of rooms is another thing
NEARLY_ALL = 0.98  # of the rows: so many different whole numbers in a column that is named so number its rows
MANY = 20  # rows from which a text that hardly repeats is a name of its own, not a category
DECIMALS = 6  # digits after the point that are kept; of more, nine that count


@dataclass(frozen=True)
class Column:
    """One column. A number or date has `knots`, ascending; a category `values`. `missing`: some rows give none.

    `decimals`: digits after the point. `form`: how a date is written; its numbers are seconds from 1970 on.
    """

    name: str
    kind: Literal["number", "date", "category"]
    values: tuple[str, ...] = ()
    knots: tuple[float, ...] = ()
    decimals: int = 0
    form: str = ""
    missing: bool = False

    @property
    def codes(self) -> int:
        """How many a category has, none given among them."""
        return len(self.values) + self.missing

    def to_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if k in ("name", "kind") or v not in ((), 0, "", False)}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Column:
        """Also of a schema written by hand, where `low` and `high` stand for knots. Raises UserError for a wrong one."""
        name, kind = told.get("name"), told.get("kind")
        if not isinstance(name, str) or not name:
            raise UserError(f"A column of the schema has no name: {json.dumps(told)[:200]}.")
        of = f"The column '{name}' of the schema"
        if kind not in KINDS:
            raise UserError(f"{of} needs a kind that is number, date or category, not {kind!r}.")
        values, decimals, form = told.get("values", []), told.get("decimals", 0), told.get("form", DATES[0])
        if not isinstance(told.get("missing", False), bool):
            raise UserError(f"{of} has 'missing' that is neither true nor false.")
        if kind == "category":
            return cls(name, kind, _values(of, values), missing=told.get("missing", False))
        if not isinstance(decimals, int) or isinstance(decimals, bool) or not 0 <= decimals <= DECIMALS + 1:
            raise UserError(f"{of} needs decimals that are a whole number from 0 to {DECIMALS + 1}, not {decimals!r}.")
        if kind == "date" and not (isinstance(form, str) and _is_date(form, _written(form, 0))):
            raise UserError(f"{of} needs a form such as {DATES[0]}, which a date can be read from, not {form!r}.")
        ends = [at(form, str(x)) if kind == "date" else x for x in (told.get("low"), told.get("high"))]
        knots = told.get("knots") or ends
        if not _ascends(knots):
            raise UserError(f"{of} needs low and high, two {kind}s of which the second is larger.")
        return cls(
            name,
            kind,
            (),
            tuple(map(float, knots)),
            decimals,
            form if kind == "date" else "",
            told.get("missing", False),
        )

    # words to numbers
    def read(self, words: Sequence[str]) -> np.ndarray:
        """f64 [N]: numbers, NaN where none is given; or codes, of words that are not known the last, or one beyond."""
        if self.kind == "category":
            known = {value: float(i) for i, value in enumerate(self.values)}
            other = known.get(OTHER, float(len(self.values)))
            told = {w: float(len(self.values)) if w in MISSING else known.get(w, other) for w in set(words)}
        else:
            told = {w: _number(w) if self.kind == "number" else at(self.form, w) for w in set(words)}
        return np.fromiter(map(told.__getitem__, words), np.float64, len(words))

    def place(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers as read -> f32: quantiles in [-1, 1], those beyond the knots at the ends; codes as they are."""
        if self.kind == "category":
            return np.minimum(numbers, self.codes).astype(np.float32)
        knots, top = np.asarray(self.knots), len(self.knots) - 1
        first, last = (np.searchsorted(knots, numbers, side) for side in ("left", "right"))
        low = np.clip(first - 1, 0, top - 1)
        width = np.maximum(knots[low + 1] - knots[low], 1e-300)
        between = low + np.clip((numbers - knots[low]) / width, 0, 1)
        place = np.where(last > first, (first + last - 1) / 2, between)  # a shared value: the middle of its stretch
        return np.where(np.isnan(numbers), np.nan, 2 * place / top - 1).astype(np.float32)

    # and back
    def number(self, places: np.ndarray) -> np.ndarray:
        """f64 [N]: what `place` came from, rounded as the column is; codes within what is known."""
        if self.kind == "category":
            return np.clip(np.nan_to_num(np.rint(places)), 0, max(self.codes - 1, 0))
        top = len(self.knots) - 1
        found = np.interp((places.astype(np.float64) + 1) / 2 * top, np.arange(top + 1), self.knots)
        if self.kind == "date":
            step = _step(self.form)
            found = np.rint(found / step) * step
        elif self.decimals <= DECIMALS:
            found = np.round(found, self.decimals)
        return np.where(np.isnan(places), np.nan, found)

    def words(self, numbers: np.ndarray) -> list[str]:
        """Numbers as read, as words; an empty one where none is given."""
        if self.kind == "category":
            known = (*self.values, "", "")
            return [known[int(x)] for x in numbers]
        return ["" if math.isnan(x) else self._word(x) for x in numbers.tolist()]

    def _word(self, x: float) -> str:
        if self.kind == "date":
            return _written(self.form, x)
        return f"{x:.{self.decimals}f}" if self.decimals <= DECIMALS else f"{x:.9g}"


class Found(NamedTuple):
    """What the columns of a table are, the numbers of those that are kept, and what a person should know."""

    columns: list[Column]
    kept: list[int]
    notes: list[str]


def found_out(names: Sequence[str], words: Sequence[Sequence[str]], most: int) -> Found:
    """Look at the words [N] of every column; of a category at most the `most` frequent values stay apart."""
    columns, kept, notes = [], [], []
    for i, (name, own) in enumerate(zip(names, words, strict=True)):
        made = column_of(name, own, most)
        if isinstance(made, str):
            notes.append(f"'{name}' is left out: {made}.")
            continue
        columns.append(made)
        kept.append(i)
        if OTHER in made.values:
            notes.append(f"Of '{name}' the {most:,} most frequent values are kept; the others are made as {OTHER}.")
    return Found(columns, kept, notes)


def column_of(name: str, words: Sequence[str], most: int) -> Column | str:
    """What a column is, or why it is left out."""
    given = [w for w in words if w not in MISSING]
    counts, missing = Counter(given), len(given) < len(words)
    if not given:
        return "no row gives it"
    if len(counts) > 2 and all(map(_is_number, counts)):
        return _numbers(name, words, counts, missing)
    if len(counts) > 2 and (form := next((f for f in DATES if all(_is_date(f, w) for w in counts)), "")):
        form = _as_written(form, counts)
        told = {w: at(form, w) for w in counts}
        numbers = np.array([told[w] for w in given])
        return Column(name, "date", knots=knots_of(numbers), form=form, missing=missing)
    if len(given) >= MANY and len(counts) > len(given) / 2:
        return f"it holds {len(counts):,} different texts in {len(given):,} rows, names of single rows"
    values = tuple(sorted(counts))
    if len(values) > most:
        values = (*sorted(value for value, _ in counts.most_common(most - 1)), OTHER)
    return Column(name, "category", values, missing=missing)


def _numbers(name: str, words: Sequence[str], counts: Counter[str], missing: bool) -> Column | str:
    told = {w: float(w) for w in counts}
    numbers = np.array([told[w] for w in words if w not in MISSING])
    whole = bool((numbers == np.rint(numbers)).all())
    if whole and len(numbers) >= MANY:
        counted = not missing and bool((np.diff(numbers) == 1).all())
        if counted or (names_rows(name) and len(counts) >= NEARLY_ALL * len(numbers)):
            return "it numbers the rows, each its own"
    if not np.isfinite(numbers).all():
        return "it holds numbers that are infinite"
    written = DECIMALS + 1 if any("e" in w.lower() for w in counts) else max(map(_digits, counts))
    decimals = 0 if whole else written
    return Column(name, "number", knots=knots_of(numbers), decimals=min(decimals, DECIMALS + 1), missing=missing)


def names_rows(name: str) -> bool:
    """Whether a column is called as identifiers are: customerID, PATIENT_NUMBER, id of order, Nr."""
    parts = [part.lower() for part in PARTED.split(name) if part]
    return bool(parts) and (parts[0] in NAMED_ID or parts[-1] in NAMED_ID | NUMBERED)


def knots_of(numbers: np.ndarray) -> tuple[float, ...]:
    """Values of the data evenly spaced in rank, the least and the largest among them."""
    count = min(KNOTS, max(len(numbers) - 1, 1))
    return tuple(np.quantile(numbers, np.linspace(0, 1, count + 1), method="nearest").tolist())


def read_schema(path: Path) -> list[Column]:
    """Columns from a JSON file, a list of them. Raises UserError for another."""
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"The schema '{path}' cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"The schema '{path}' is no JSON: {error}.") from None
    told = told.get("columns") if isinstance(told, dict) else told
    if not isinstance(told, list) or not told or not all(isinstance(c, dict) for c in told):
        raise UserError(f"The schema '{path}' is no list of columns such as {{'name': 'age', 'kind': 'number', …}}.")
    known = {f.name for f in fields(Column)} | {"low", "high"}
    for column in told:
        if odd := next((key for key in column if key not in known), ""):
            raise unknown(f"entry of the schema's column '{column.get('name')}'", odd, known - {"knots"})
    columns = [Column.from_json(column) for column in told]
    if twice := next((n for n, count in Counter(c.name for c in columns).items() if count > 1), ""):
        raise UserError(f"The schema has the column '{twice}' twice: leave one out.")
    return columns


def _values(of: str, told: Any) -> tuple[str, ...]:
    """What a category may be. Raises UserError for what is no list of different words."""
    if not isinstance(told, (list, tuple)) or not told or not all(isinstance(v, (str, int, float)) for v in told):
        raise UserError(f"{of} needs its values, a list of words.")
    values = tuple(map(str, told))
    if len(set(values)) < len(values):
        raise UserError(f"{of} has a value twice: leave one out.")
    return values


def at(form: str, word: str) -> float:
    """A date in seconds from 1970 on; NaN for what is none. In a form %-d is a day without a leading zero."""
    try:
        return datetime.strptime(word.strip(), form.replace("%-", "%")).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return math.nan


def _written(form: str, x: float) -> str:
    """A date in that form: %-d is ours to fill in, for not every system's strftime knows it."""
    date = EPOCH + timedelta(seconds=x)  # before it too, on any system
    return date.strftime(BARE.sub(lambda part: str(int(date.strftime(f"%{part[1]}"))), form))


def _as_written(form: str, words: Iterable[str]) -> str:
    """The form with or without leading zeros, in days and months or in hours, as all words have it."""
    for parts in ("", "dm", "H", "dmH"):
        bare = re.sub(f"%([{parts}])", r"%-\1", form) if parts else form
        if all(_written(bare, at(bare, word)) == word.strip() for word in words):
            return bare
    return form


def _step(form: str) -> float:
    """Seconds of the smallest part that a date tells."""
    steps = (("%f", 1e-6), ("%S", 1.0), ("%M", 60.0), ("%H", 3600.0))
    return next((step for part, step in steps if part in form.replace("%-", "%")), 86400.0)


def _number(word: str) -> float:
    return float(word) if NUMBER.fullmatch(word.strip()) else math.nan


def _is_number(word: str) -> bool:
    return bool(NUMBER.fullmatch(word.strip())) and not CODED.match(word.strip())


def _is_date(form: str, word: str) -> bool:
    return not math.isnan(at(form, word))


def _digits(word: str) -> int:
    return len(word.strip().rpartition(".")[2]) if "." in word else 0


def _ascends(knots: Any) -> bool:
    return (
        isinstance(knots, (list, tuple))
        and len(knots) >= 2
        and all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in knots)
        and bool((np.diff(knots) >= 0).all() and knots[0] < knots[-1])
    )
