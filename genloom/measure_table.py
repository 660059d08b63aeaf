"""A run of a table + data -> metrics.json: whether its rows are spread, and hang together, as real ones, and serve as they do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from genloom import generate
from genloom.core import Spec
from genloom.data.base import Dataset
from genloom.data.schema import Column as Described
from genloom.data.table import numbers_of
from genloom.errors import UserError
from genloom.measure import MOST, Asked, chosen, labels_to_ask, some_rows
from genloom.metrics import table as figures
from genloom.metrics import trees
from genloom.metrics.chances import wilson
from genloom.metrics.table import Column, Table
from genloom.nn.columns import are_numbers

METRICS = ("shapes", "trends", "detection", "utility", "new", "nearer")
AGAIN = 20  # times that rows are drawn anew for an interval
JUDGED = 10_000  # rows of the data that samples are compared with, but for whether they are training rows
CLASSES = 10  # of what is predicted where no target was named, at most
DRAWN = 20  # bars of a number's histogram, and at most so many of a category
EXTRA = "pip install 'genloom[table]'"
Figure = tuple[float, float, float]  # a value, and the ends of its interval


def as_table(numbers: Sequence[np.ndarray], spec: Spec) -> list[Column]:
    """Columns as metrics take them, of numbers as they were read."""
    told = [Described.from_json(c) for c in spec.extra["columns"]]
    table = []
    for c, x in zip(told, numbers, strict=True):
        discrete = c.kind == "category"
        values = np.where(x < len(c.values), x, -1).astype(np.int64) if discrete else x
        table.append(Column(c.name, values, discrete))
    return table


def rows_of(table: Table, rows: np.ndarray) -> list[Column]:
    return [c._replace(values=c.values[rows]) for c in table]


def data_table(data: Dataset) -> list[Column]:
    """The rows of a data set. Raises UserError for one that is no table of columns."""
    if (numbers := getattr(data, "numbers", None)) is None:
        raise UserError(f"'{data.name}' is no table: give --data a .csv, .tsv or .parquet file.")
    return as_table(numbers, data.spec)


def measured(asked: Asked) -> tuple[dict[str, Any], int]:
    """The figures of n rows, as many as were trained on by default, beside those of the training rows; and how many.

    Raises UserError for an unknown metric, or rows that are not numbers.
    """
    run, own, reference, metrics, n, seed, *_ = asked
    wanted = chosen(metrics, METRICS, "metric of tables")
    train = data_table(own) if own is not None and own.fingerprint != reference.fingerprint else None
    real = _sample(data_table(reference), seed)
    n = n or min(MOST, len(own or reference))
    model = generate.load(run)
    labels = labels_to_ask(model, own or reference, some_rows(len(own or reference), n, seed), n, seed)
    made = torch.as_tensor(generate.draw(model, n, seed=seed, **labels))
    if not are_numbers(made, run.spec):
        raise UserError(f"The samples of '{run.folder}' are not numbers (NaN): fit again, with a lower --lr.")
    fake = as_table(numbers_of(made, run.spec), run.spec)
    result: dict[str, Any] = {"counted": "rows", "metrics": [], "beside": {}, "warnings": []}
    shown = None if train is None else _sample(train, seed)
    _spread(result, wanted, real, fake, shown, seed)
    if {"detection", "utility"} & set(wanted):
        _learnt(result, wanted, real, fake, shown, run.spec, seed)
    if train is not None:
        _new(result, wanted, real, fake, train, seed)
    result["columns"] = drawn(real if train is None else train, fake, run.spec)
    return result, n


# ── how rows are spread ──────────────────────────────────────────────────────────────────────────────────────────────
def _spread(
    result: dict[str, Any], wanted: Sequence[str], real: Table, fake: Table, train: Table | None, seed: int
) -> None:
    notes = {
        "shapes": "mean over columns of 1 - the greatest gap of distribution functions, or of 1 - total variation",
        "trends": "mean over pairs of columns of how alike their correlation, or their table of counts, is",
    }
    for name, of in (("shapes", shapes), ("trends", trends)):
        if name not in wanted:
            continue
        found = around(of, real, fake, seed)
        if math.isnan(found[0]):
            why = "there is one column alone" if len(real) == 1 else "no columns hold enough values that vary"
            result["warnings"].append(f"{name.capitalize()} were not measured: {why}.")
            continue
        beside = {} if train is None else {"real rows": of(real, train)}
        _row(result, name, found, fake, real, notes[name], beside)


def shapes(real: Table, fake: Table) -> float:
    return _mean(figures.shapes(real, fake).values())


def trends(real: Table, fake: Table) -> float:
    return _mean(figures.trends(real, fake).values())


def _mean(values: Iterable[float]) -> float:
    """Of those that are defined; NaN where none is."""
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan


def around(of: Callable[[Table, Table], float], real: Table, fake: Table, seed: int) -> Figure:
    """A figure and an interval around it, by its deviation over rows drawn anew: drawing lowers it, so the middle stays."""
    random, value = np.random.default_rng(seed), of(real, fake)
    again = [of(_anew(real, random), _anew(fake, random)) for _ in range(AGAIN)]
    wide = 1.96 * float(np.std(again, ddof=1))
    return value, value - wide, min(1.0, value + wide)


def _anew(table: Table, random: np.random.Generator) -> list[Column]:
    count = len(table[0].values)
    return rows_of(table, random.integers(count, size=count))


# ── what a classifier makes of them ──────────────────────────────────────────────────────────────────────────────────
def _learnt(
    result: dict[str, Any], wanted: Sequence[str], real: Table, fake: Table, train: Table | None, spec: Spec, seed: int
) -> None:
    """Adds whether boosted trees tell samples from real rows, and how well those learn from samples to predict real ones."""
    try:
        import sklearn  # noqa: F401
    except ImportError:
        result["warnings"].append(f"Detection and utility were not measured: they need scikit-learn, {EXTRA}.")
        return
    if "detection" in wanted:
        shown = real if train is None else train
        found = trees.told_apart(shown, fake, seed)
        note = "AUC of boosted trees that tell samples from real rows, on rows they were not shown; 0.5 is not at all"
        beside = {} if train is None else {"real rows": trees.told_apart(train, real, seed)[0]}
        _row(result, "detection", found, fake, shown, note, beside)
    if "utility" in wanted and train is not None and len(real) > 1:
        target = spec.extra["target"]
        target = _last_category(fake) if target is None else int(target)
        if target is not None:
            _predict(result, real, fake, train, target, seed)


def _predict(result: dict[str, Any], real: Table, fake: Table, train: Table, target: int, seed: int) -> None:
    name = real[target].name
    found = [trees.predicted(x, real, target, seed) for x in (fake, train)]
    if found[0] is None or found[1] is None:
        result["warnings"].append(f"Utility was not measured: '{name}' has too few rows of a class to be predicted.")
        return
    note = f"AUC of boosted trees that learnt from samples to predict '{name}' of held-out rows"
    _row(result, "utility", found[0], fake, real, note, {"real rows": found[1][0]})


def _last_category(table: Table) -> int | None:
    """The last column of a few categories, which in most tables is what was asked about."""
    found = [i for i, c in enumerate(table) if c.discrete and 1 < len(np.unique(c.values)) <= CLASSES]
    return found[-1] if found else None


def _sample(table: Table, seed: int) -> list[Column]:
    return rows_of(table, some_rows(len(table[0].values), JUDGED, seed))


# ── how new they are ─────────────────────────────────────────────────────────────────────────────────────────────────
def _new(result: dict[str, Any], wanted: Sequence[str], real: Table, fake: Table, train: Table, seed: int) -> None:
    if "new" in wanted:
        share = figures.new_rows(fake, train)
        note = "share of rows that are no training row, numbers within 1 %"
        beside = {"real rows": figures.new_rows(real, train)}
        _row(result, "new", _binomial(share, len(fake[0].values)), fake, train, note, beside)
    if "nearer" in wanted:
        count = min(len(real[0].values), len(train[0].values))
        even = rows_of(train, some_rows(len(train[0].values), count, seed))
        note = (
            f"share of rows nearer to one of {count:,} training rows than to any of as many held-out ones, ties by half; 0.5 is "
            "chance"
        )
        _row(result, "nearer", figures.sides_nearer(fake, even, real, train), fake, real, note, {})


def _binomial(share: float, n: int) -> Figure:
    return share, *wilson(round(share * n), n)


def _row(
    result: dict[str, Any], name: str, found: Figure, fake: Table, real: Table, note: str, beside: dict[str, float]
) -> None:
    n, n_real = len(fake[0].values), len(real[0].values)
    value, low, high = found
    row = {"name": f"{name}@{n}", "value": value, "low": low, "high": high, "n": n, "n_real": n_real, "note": note}
    result["metrics"].append(row | ({"extractor": "boosted trees"} if name in ("detection", "utility") else {}))
    if beside:
        result["beside"][row["name"]] = beside


# ── to be drawn ──────────────────────────────────────────────────────────────────────────────────────────────────────
def drawn(real: Table, fake: Table, spec: Spec) -> list[dict[str, Any]]:
    """Of each column its bars: names or edges, and the shares of real rows and of samples in each."""
    told = [Described.from_json(c) for c in spec.extra["columns"]]
    return [_bars(c, a.values, b.values) for c, a, b in zip(told, real, fake, strict=True)]


def _bars(column: Described, real: np.ndarray, fake: np.ndarray) -> dict[str, Any]:
    if column.kind == "category":
        count = len(column.values)
        most = np.argsort(-np.bincount(real[real >= 0], minlength=count), kind="stable")[:DRAWN]
        shares = [[float((x == i).mean()) for i in most] for x in (real, fake)]
        return {"name": column.name, "bars": [column.values[i] for i in most], "real": shares[0], "made": shares[1]}
    edges = np.histogram_bin_edges(real[~np.isnan(real)], DRAWN)
    edges = edges if len(edges) > 1 else np.array([0.0, 1.0])
    # what lies beyond is in the end bars
    within = [np.clip(x[~np.isnan(x)], edges[0], edges[-1]) for x in (real, fake)]
    shares = [(np.histogram(x, edges)[0] / len(all_)).tolist() for x, all_ in zip(within, (real, fake), strict=True)]
    return {"name": column.name, "bars": column.words(edges), "real": shares[0], "made": shares[1]}
