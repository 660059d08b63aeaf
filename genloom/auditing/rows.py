"""Memorisation in tables: rows that are training rows, and rows that are nearer to those than chance allows.

The distance of two rows is the mean over columns of their difference, over the range of the column, or 0 or 1 for categories
(Gower 1971). What rows that the run never saw share with training rows is what people have in common; more is copied.
"""

from __future__ import annotations

import numpy as np

from genloom.auditing import Found, Subject
from genloom.auditing.finding import Finding, percent
from genloom.core import Spec
from genloom.data.schema import Column as Described
from genloom.data.table import numbers_of
from genloom.errors import UserError
from genloom.measure import some_rows
from genloom.measure_table import as_table, data_table, rows_of
from genloom.metrics import table as figures
from genloom.metrics.chances import wilson
from genloom.metrics.table import Table

NEARER = 0.55  # the share of rows nearer to training than to held-out ones that is allowed; 0.5 is chance
SHOWN = 8
HELD = 3_000  # held-out rows that are looked at, at most
LEAST = 0.01  # quantile of held-out rows' distances, but those that are training rows, below which a row is near


def look(subject: Subject, found: Found) -> None:
    """Adds what is copied to the findings."""
    if subject.holdout is None:
        found.cannot.append(
            "Whether rows are copies cannot be concluded: rows coincide by chance too, and how often is only known beside rows that "
            "the run never saw. Give --holdout, or fit with --data.held-out 0.1."
        )
        return
    train, spec = data_table(subject.data), subject.run.spec
    held = rows_of(data_table(subject.holdout), some_rows(len(subject.holdout), HELD, subject.seed))
    made = as_table(numbers_of(subject.made, spec), spec)
    ours, places = figures.nearest_rows(made, train)
    theirs, _ = figures.nearest_rows(held, train)
    beside, usual = f"{len(theirs):,} rows that the run never saw", theirs == 0
    if (twice := _stand_twice(subject, found, theirs == 0)) is not None:
        beside, usual = f"{len(twice):,} training rows beside the others", twice
        held, theirs = rows_of(held, np.flatnonzero(theirs)), theirs[theirs > 0]
    _beside(subject, found, "exact-rows", ours == 0, usual, "are training rows in every column", beside)
    if (others := theirs[theirs > 0]).size:  # rows that are the same are counted above
        limit = float(np.quantile(others, LEAST))
        near, usual = (ours > 0) & (ours <= limit), (theirs > 0) & (theirs <= limit)
        what = f"are within {limit:.2g} of a training row, and not the same"
        _beside(subject, found, "near-rows", near, usual, what, f"{len(theirs):,} rows that the run never saw")
    _nearer(subject, found, made, train, held)
    _gallery(found, spec, made, train, ours, places)


def _stand_twice(subject: Subject, found: Found, again: np.ndarray) -> np.ndarray | None:
    """[n] bool: which training rows stand there twice, which tells how often rows coincide by chance; None where held-out rows
    tell it, which are training rows `again` [m] no more often than that. Raises UserError where nothing but those is held out."""
    assert subject.twins is not None
    twice = subject.twins.twice(some_rows(len(subject.data), HELD, subject.seed))
    if wilson(int(again.sum()), len(again))[0] <= wilson(int(twice.sum()), len(twice))[1]:
        return None
    if again.all():
        raise UserError("Every held-out row is a training row too: give --holdout others.")
    found.cannot.append(
        f"{percent(float(again.mean()))} of the held-out rows are training rows, and of the training rows {percent(float(twice.mean()))} "
        "stand there twice: some of what was held out was trained on, and such rows were left out."
    )
    return twice


def _beside(
    subject: Subject, found: Found, name: str, ours: np.ndarray, theirs: np.ndarray, what: str, beside: str
) -> None:
    """A share of samples beside that of others, which is what people have in common."""
    n, value, usual = len(ours), float(ours.mean()), float(theirs.mean())
    low, high = wilson(int(ours.sum()), n)
    limit = wilson(int(theirs.sum()), len(theirs))[1] + subject.max_copies
    flagged = low > limit
    judged = "it copies what it was trained on." if flagged else "no more than rows have in common, or is allowed."
    sentence = (
        f"{percent(value)} of {n:,} made rows ({percent(low)} to {percent(high)}) {what}; of {beside} "
        f"{percent(usual)} are: {judged}"
    )
    method = f"nearest of all training rows by Gower's distance, beside {beside}"
    found.findings.append(Finding(name, method, n, value, low, high, limit, flagged, sentence))


def _nearer(subject: Subject, found: Found, made: Table, train: Table, held: Table) -> None:
    """The share of samples nearer to training rows than to as many held-out ones."""
    total, n = len(train[0].values), len(made[0].values)
    count = min(len(held[0].values), total)
    even = rows_of(train, some_rows(total, count, subject.seed))
    value, low, high = figures.sides_nearer(made, even, held, train)
    flagged = low > NEARER
    judged = "it keeps close to the rows that it was trained on." if flagged else "about as chance has it."
    sentence = (
        f"{percent(value)} of {n:,} made rows ({percent(low)} to {percent(high)}; chance is 50 %) are nearer to one of {count:,} "
        f"training rows than to any of as many that the run never saw: {judged}"
    )
    method = (
        f"nearest of {count:,} training rows and of {count:,} held-out ones by Gower's distance, ties by half; made rows that share their "
        "nearest count as one in the interval"
    )
    found.findings.append(Finding("nearer-to-training", method, n, value, low, high, NEARER, flagged, sentence))


def _gallery(found: Found, spec: Spec, made: Table, train: Table, apart: np.ndarray, places: np.ndarray) -> None:
    """The rows that are nearest to a training row, with that."""
    told = [Described.from_json(c) for c in spec.extra["columns"]]
    worst = np.argsort(apart, kind="stable")[:SHOWN]

    def words(table: Table, row: int) -> list[str]:
        cells = (np.array([float(c.values[row])]) for c in table)
        return [
            c.words(np.where(x < 0, len(c.values), x) if c.kind == "category" else x)[0]
            for c, x in zip(told, cells, strict=True)
        ]

    found.more["rows"] = [
        {
            "sample": int(i),
            "item": int(places[i]),
            "distance": float(apart[i]),
            "made": words(made, int(i)),
            "training": words(train, int(places[i])),
        }
        for i in worst
    ]
