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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from genloom.errors import UserError

MISSING = frozenset({"", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "#N/A", "<NA>"})
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
)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
CODED = re.compile(r"[+-]?0\d")  # a leading zero is of a code, such as a postcode, not of a number
NAMED_ID = re.compile(r"(^|[^a-z])id$|^id([^a-z]|$)", re.IGNORECASE)
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
        if not isinstance(name, str) or kind not in ("number", "date", "category"):
            raise UserError(
                f"A column of the schema needs a name, and a kind that is number, date or category: {told}."
            )
        decimals = told.get("decimals", 0)
        if not isinstance(told.get("values", []), (list, tuple)) or not isinstance(decimals, int) or decimals < 0:
            raise UserError(f"The column '{name}' of the schema takes a list of values, and 0 or more decimals.")
        form = str(told.get("form", DATES[0])) if kind == "date" else ""
        knots, values = None if kind == "category" else told.get("knots"), tuple(map(str, told.get("values", ())))
        if kind != "category" and not knots:
            ends = [at(form, str(told[k])) if form and k in told else told.get(k) for k in ("low", "high")]
            knots = ends if all(isinstance(x, (int, float)) for x in ends) else ()
        if kind == "category" and not values:
            raise UserError(f"The column '{name}' of the schema needs its values, a list of words.")
        if kind != "category" and not _ascends(knots):
            raise UserError(f"The column '{name}' of the schema needs low and high, of which the second is larger.")
        return cls(name, kind, values, tuple(map(float, knots or ())), decimals, form, bool(told.get("missing")))

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
            return datetime.fromtimestamp(x, UTC).strftime(self.form)
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
    if whole and not missing and len(counts) == len(numbers) >= MANY:
        steps = np.diff(numbers)
        if (steps == 1).all() or NAMED_ID.search(name):
            return "it numbers the rows, each its own"
    if not np.isfinite(numbers).all():
        return "it holds numbers that are infinite"
    written = DECIMALS + 1 if any("e" in w.lower() for w in counts) else max(map(_digits, counts))
    decimals = 0 if whole else written
    return Column(name, "number", knots=knots_of(numbers), decimals=min(decimals, DECIMALS + 1), missing=missing)


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
    return [Column.from_json(column) for column in told]


def at(form: str, word: str) -> float:
    """A date in seconds from 1970 on; NaN for what is none."""
    try:
        return datetime.strptime(word.strip(), form).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return math.nan


def _step(form: str) -> float:
    """Seconds of the smallest part that a date tells."""
    return next((step for part, step in (("%S", 1.0), ("%M", 60.0), ("%H", 3600.0)) if part in form), 86400.0)


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
        and all(isinstance(knot, (int, float)) for knot in knots)
        and bool((np.diff(knots) >= 0).all() and knots[0] < knots[-1])
    )
