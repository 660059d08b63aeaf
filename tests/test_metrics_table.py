"""Measures of tables: the figures of SDMetrics, and of tables whose answer is known."""

from __future__ import annotations

import csv
import json
import math
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genloom.metrics import table
from genloom.metrics.table import Column, nearest_rows, new_rows, shape, shapes, trend, trends

GOLDEN = Path(__file__).parent / "golden" / "metrics_tabular_sdmetrics"
EXPECTED = json.loads((GOLDEN / "config.json").read_text())["expected"]
KINDS = {k: v["sdtype"] for k, v in json.loads((GOLDEN / "metadata.json").read_text())["columns"].items()}
DISCRETE = ("categorical", "boolean")
close = pytest.approx


def read(name: str) -> list[Column]:
    with (GOLDEN / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [column(k, kind, [row[k] for row in rows]) for k, kind in KINDS.items()]


def column(name: str, kind: str, words: list[str]) -> Column:
    if kind in DISCRETE:  # a code is made of the word itself, so it is the same in every table
        return codes([zlib.crc32(w.encode()) if w else -1 for w in words], name)
    number: Callable[[str], float] = float
    if kind == "datetime":
        number = lambda w: datetime.strptime(w, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()  # noqa: E731
    return numbers([number(w) if w else math.nan for w in words], name)


def numbers(values: Any, name: str = "x") -> Column:
    return Column(name, np.array(values, np.float64), False)


def codes(values: Any, name: str = "c") -> Column:
    return Column(name, np.array(values, np.int64), True)


def drawn(seed: int, rows: int, columns: int = 4, levels: int = 5) -> list[Column]:
    """A table of few values, so that many are equal; some are missing, and some columns are constant."""
    rng, made = np.random.default_rng(seed), []
    for i in range(columns):
        values, name = rng.integers(-1, rng.integers(1, levels + 1), rows), f"c{i}"
        x = np.where(values < 0, np.nan, values * rng.choice([0.1, 1e6]) + rng.choice([0, 1e-9], rows))
        made.append(codes(values, name) if i % 2 else numbers(x, name))
    return made


def taken(of: list[Column], rows: Any) -> list[Column]:
    return [c._replace(values=c.values[rows]) for c in of]


REAL, HOLDOUT, FAKE = (read(name) for name in ("real", "holdout", "synthetic"))
BOTH = {x.name: (x, y) for x, y in zip(REAL, FAKE, strict=True)}

# ── beside SDMetrics ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", KINDS)
def test_single_columns(name: str) -> None:
    statistics = {"mean": np.mean, "median": np.median, "std": lambda x: x.std(ddof=1)}
    plain = {"KSComplement": shape, "TVComplement": shape, "MissingValueSimilarity": table.missing}
    plain |= {"BoundaryAdherence": table.adherence, "CategoryAdherence": table.adherence}
    plain |= {"RangeCoverage": table.coverage, "CategoryCoverage": table.coverage}
    for metric, expected in EXPECTED["single_column"][name].items():
        metric, _, which = metric.partition("_")
        made = table.statistic(*BOTH[name], of=statistics[which]) if which else plain[metric](*BOTH[name])
        assert made == close(expected, abs=1e-9), metric


def test_pairs() -> None:
    for pair in EXPECTED["column_pairs"]:
        ranked = pair.get("coefficient") == "Spearman"
        (x, u), (y, v) = (BOTH[name] for name in pair["columns"])
        assert trend((x, y), (u, v), ranked=ranked) == close(pair["score"], abs=1e-9)
        if "real" in pair:
            assert table.correlation(x, y, ranked=ranked) == close(pair["real"], abs=1e-9)
            assert table.correlation(u, v, ranked=ranked) == close(pair["synthetic"], abs=1e-9)


def test_the_report() -> None:
    told = EXPECTED["quality_report_zero_thresholds"]
    of_columns, of_pairs = shapes(REAL, FAKE), trends(REAL, FAKE)
    listed = {(pair["Column 1"], pair["Column 2"]): pair["Score"] for pair in told["column_pair_trends"]}
    assert of_columns == close({c["Column"]: c["Score"] for c in EXPECTED["quality_report"]["column_shapes"]}, abs=1e-9)
    assert of_pairs == close(listed, abs=1e-9) and len(listed) == 120
    for part, property in zip((of_columns, of_pairs), told["properties"], strict=True):
        assert fmean(part.values()) == close(property["Score"], abs=1e-9)
    assert table.quality(REAL, FAKE) == close(told["score"], abs=1e-9)


def test_the_report_on_related_columns_alone() -> None:
    told = EXPECTED["quality_report"]
    above = told["real_correlation_threshold"], told["real_association_threshold"]
    assert table.quality(REAL, FAKE, above=above) == close(told["score"], abs=1e-9)
    for pair in told["column_pair_trends"]:
        x, y = (BOTH[pair[k]][0] for k in ("Column 1", "Column 2"))
        numeric = pair["Real Association"] is None
        made, wanted = (table.correlation if numeric else table.association)(x, y), pair["Real Correlation"]
        assert made == close(wanted if numeric else pair["Real Association"], abs=1e-9)
        assert (abs(made) > above[0 if numeric else 1]) == pair["Meets Threshold?"]
        if pair["Meets Threshold?"]:
            assert trends(REAL, FAKE)[x.name, y.name] == close(pair["Score"], abs=1e-9)


def test_validity() -> None:
    told = EXPECTED["diagnostic_report"]
    made = {name: table.adherence(*both) for name, both in BOTH.items()}
    written = [c["Score"] for c in told["data_validity"] if c["Metric"] == "DatetimeFormatAdherence"]
    assert written == [1.0] * 2  # every date could be read
    for c in told["data_validity"]:
        assert c["Metric"] == "DatetimeFormatAdherence" or made[c["Column"]] == close(c["Score"], abs=1e-9)
    assert fmean([*made.values(), *written]) == close(told["properties"][0]["Score"], abs=1e-9)


def test_distances() -> None:
    told = EXPECTED["dcr"]
    made, number = nearest_rows(FAKE, REAL)
    assert made.tolist() == close(told["synthetic_to_real"], abs=1e-9)
    assert nearest_rows(HOLDOUT, REAL)[0].tolist() == close(told["holdout_to_real"], abs=1e-9)
    assert [made.min(), np.median(made), made.mean(), np.percentile(made, 5)] == close(
        [told[k] for k in ("min", "median", "mean", "p5")], abs=1e-9
    )
    copies = np.flatnonzero(made == 0)
    assert len(copies) == 7
    for ours, theirs in zip(taken(FAKE, copies), taken(REAL, number[copies]), strict=True):
        np.testing.assert_array_equal(ours.values, theirs.values)


def test_copies_and_overfitting() -> None:
    told = EXPECTED["dcr_overfitting_protection"]
    nearer = told["synthetic_data_percentages"]["closer_to_training"]
    assert table.nearer_to_training(FAKE, REAL, HOLDOUT) == close(nearer, abs=1e-9)
    assert table.overfitting_protection(FAKE, REAL, HOLDOUT) == close(told["score"], abs=1e-9)
    assert new_rows(FAKE, REAL) == close(EXPECTED["new_row_synthesis"]["score"], abs=1e-9)


# ── known answers ────────────────────────────────────────────────────────────────────────────────────────────────


@given(seed=st.integers(0, 999), rows=st.integers(1, 30))
@example(seed=598, rows=14)  # a million, and a million and a billionth
def test_a_table_is_like_itself_in_any_order(seed: int, rows: int) -> None:
    real = drawn(seed, rows)
    mixed = taken(real, np.random.default_rng(seed).permutation(rows))
    scores = [*shapes(real, mixed).values(), *trends(real, mixed).values()]
    assert [s for s in scores if not math.isnan(s)] == close([1.0] * sum(not math.isnan(s) for s in scores))
    for x, y in zip(real, mixed, strict=True):
        assert shape(x, y) == 1 or not len(table.given(x))
        assert table.missing(x, y) == 1 and table.adherence(x, y) in (1, close(math.nan, nan_ok=True))
        assert table.coverage(x, y) == close(1) or not np.unique(table.given(x))[1:].size
    assert new_rows(mixed, real) == 0 and not nearest_rows(mixed, real)[0].any()
    assert table.nearer_to_training(mixed, real, mixed) == 0  # a tie counts for what was held out


@given(seed=st.integers(0, 999), rows=st.integers(1, 25), others=st.integers(1, 25))
def test_the_order_of_rows_changes_nothing(seed: int, rows: int, others: int) -> None:
    real, fake, rng = drawn(seed, rows), drawn(seed + 1, others), np.random.default_rng(seed)
    mixed = taken(real, rng.permutation(rows)), taken(fake, rng.permutation(others))
    assert shapes(*mixed) == close(shapes(real, fake), nan_ok=True)
    assert trends(*mixed) == close(trends(real, fake), nan_ok=True)
    assert np.sort(nearest_rows(*mixed[::-1])[0]) == close(np.sort(nearest_rows(fake, real)[0]))
    assert new_rows(*mixed[::-1]) == close(new_rows(fake, real))
    for made in (*shapes(real, fake).values(), *trends(real, fake).values(), table.quality(real, fake)):
        assert math.isnan(made) or -1e-12 <= made <= 1


def apart(a: Column, i: int, b: Column, j: int) -> float:
    x, y = a.values[i].item(), b.values[j].item()
    if a.discrete:
        return float(x != y)
    if math.isnan(x) or math.isnan(y):
        return float(math.isnan(x) != math.isnan(y))
    known = [v for v in b.values.tolist() if not math.isnan(v)]
    reach = max(known) - min(known)
    return min(abs(x - y) / reach, 1) if reach else float(x != y)


@settings(max_examples=50)
@given(seed=st.integers(0, 999), rows=st.integers(1, 12), others=st.integers(1, 25), chunk=st.sampled_from([1, 5, 64]))
def test_every_pair_of_rows_is_compared(seed: int, rows: int, others: int, chunk: int) -> None:
    a, b = drawn(seed, rows, columns=5), drawn(seed + 1, others, columns=5)
    every = np.array(
        [[[apart(x, i, y, j) for x, y in zip(a, b, strict=True)] for j in range(others)] for i in range(rows)]
    )
    distances, number = nearest_rows(a, b, chunk=chunk)
    np.testing.assert_allclose(distances, every.mean(2).min(1), atol=1e-12)
    np.testing.assert_allclose(every.mean(2)[np.arange(rows), number], distances, atol=1e-12)
    for tolerance in (0.0, 0.01, 0.3):
        assert new_rows(a, b, tolerance) == close(1 - (every <= tolerance + 1e-9).all(2).any(1).mean())


def test_many_rows_and_columns_are_compared_as_few_are() -> None:
    rng = np.random.default_rng(0)
    a, b = ([numbers(rng.normal(size=n), f"n{i}") for i in range(40)] for n in (30, 9000))
    a, b = ([*x, *(codes(rng.integers(-1, 9, n), f"c{i}") for i in range(300))] for x, n in ((a, 30), (b, 9000)))
    distances, number = nearest_rows(a, b)
    parts = [nearest_rows(a, [*taken(b, rows)])[0] for rows in (slice(4500), slice(4500, None))]
    reach = [np.ptp(y.values) for y in b if not y.discrete]
    for i in range(30):
        far = [np.minimum(abs(x.values[i] - y.values) / r, 1) for x, y, r in zip(a, b, reach, strict=False)]
        far += [(x.values[i] != y.values).astype(float) for x, y in zip(a, b, strict=True) if x.discrete]
        assert distances[i] == close(np.mean(far, 0).min(), abs=1e-12) and number[i] == np.mean(far, 0).argmin()
    assert (np.minimum(*parts) >= distances - 1e-12).all()  # of a part the range is smaller


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_rows_nearer_to_one_another_than_sixteen_bits_tell_are_told_apart(columns: int) -> None:
    rng = np.random.default_rng(0)
    a, b = ([numbers(rng.random(n), f"x{i}") for i in range(columns)] for n in (100, 9000))
    distances, number = nearest_rows(a, b)
    every = sum(abs(x.values[:, None] - y.values) / np.ptp(y.values) for x, y in zip(a, b, strict=True)) / columns
    np.testing.assert_allclose(distances, every.min(1), atol=1e-15)
    assert (number == every.argmin(1)).all()


def test_of_rows_as_near_the_first_is_named() -> None:
    kind, place = np.ones(6000, int), np.linspace(0, 1, 6000)
    kind[[20, 5000]], place[20], place[5000] = 0, 0, 1  # 4096 others are compared at a time
    assert nearest_rows([codes([0]), numbers([0.5])], [codes(kind), numbers(place)])[1].tolist() == [20]


def test_a_tolerance_is_not_a_matter_of_rounding() -> None:
    assert abs(51 / 100 - 50 / 100) > 0.01
    assert new_rows([numbers([51, 52])], [numbers([0, 50, 100])]) == 0.5


def test_a_copy_is_found_among_rows_that_nearly_are_one() -> None:
    rng = np.random.default_rng(0)
    real = [numbers(1e-12 * rng.random(5000) + np.where(np.arange(5000), 0, 1), f"x{i}") for i in range(3)]
    distances, number = nearest_rows(taken(real, slice(4990, None)), real)
    assert distances.tolist() == [0] * 10 and number.tolist() == list(range(4990, 5000))
    assert nearest_rows(taken(real, [7, 7]), taken(real, [3, 7, 7]))[1].tolist() == [1, 1]  # the first of those as near


def test_codes_beyond_sixteen_bits() -> None:
    names = np.random.default_rng(0).permutation(70_000) * 2**40
    real = [codes(names), numbers(np.zeros(70_000))]
    fake = [codes([names[69_999], names[1], 1, -1]), numbers([0, 1, 0, math.nan])]
    distances, number = nearest_rows(fake, real)
    assert distances.tolist() == [0, 0.5, 0.5, 1] and number[:2].tolist() == [69_999, 1]
    assert new_rows(fake, real) == 0.75
    real = [codes(range(70_000)), numbers([0] * 10 + [3] + [0] * 65_546 + [10] * 4443)]
    distances, number = nearest_rows([codes([65_546]), numbers([3])], real)  # 65,546 is 10 in sixteen bits
    assert distances.tolist() == [0.15] and number.tolist() == [65_546]


def test_distributions() -> None:
    assert shape(numbers([1, 2, 3, 4]), numbers([3, 4, 5, 6])) == 0.5
    assert shape(numbers([1, 2, math.nan]), numbers([1, 2])) == 1
    assert shape(codes([0, 0, 1, -1]), codes([0, 2])) == close(1 / 2)
    assert shape(codes([0, 1]), codes([2, 3])) == shape(numbers([0, 1]), numbers([2, 3])) == 0
    assert math.isnan(shape(numbers([math.nan]), numbers([1.0]))) and math.isnan(shape(codes([-1]), codes([0])))


def test_ranges_and_missing_values() -> None:
    real, gappy = numbers([0, 10]), numbers([0, 10, math.nan, math.nan])
    fake = numbers([2, 5, 7, math.nan])
    assert table.adherence(real, fake) == 0.75 and table.adherence(gappy, fake) == 1
    assert table.coverage(real, fake) == 0.5 and table.coverage(real, numbers([20, 30])) == 0
    assert table.missing(gappy, fake) == 0.75
    assert table.statistic(real, fake, np.median) == 1 and table.statistic(real, numbers([99]), np.median) == 0
    assert table.adherence(codes([0, 1]), codes([0, 2, -1, 1])) == 0.5
    assert table.coverage(codes([0, 1, 2, -1]), codes([0, 5])) == close(1 / 3)
    for of in (table.coverage, table.adherence):
        assert math.isnan(of(numbers([1, math.nan]), numbers([math.nan])))


def test_relations() -> None:
    x, y = numbers([1, 2, 3, math.nan, 5]), numbers([1, 4, 9, 0, math.nan])
    assert table.correlation(x, y) == close(np.corrcoef([1, 2, 3], [1, 4, 9])[0, 1])
    assert table.correlation(x, y, ranked=True) == close(1)
    assert trend((x, y), (x, y._replace(values=-y.values)), ranked=True) == close(0, abs=1e-12)
    assert table.correlation(numbers([1, 1, 2, 5]), numbers([4, 6, 6, 0]), ranked=True) == close(
        np.corrcoef([1.5, 1.5, 3, 4], [2, 3.5, 3.5, 1])[0, 1]
    )
    assert math.isnan(trend((x, numbers([7] * 5)), (x, y))) and math.isnan(
        table.association(codes([1, 1]), codes([0, 1]))
    )
    assert table.association(codes([0, 0, 1, -1]), codes([5, 5, 9, 7])) == close(1)
    assert table.association(codes([0, 0, 1, 1]), codes([0, 1, 0, 1])) == close(0)
    assert trend((codes([0, 2**62]), codes([0, 3])), (codes([0, 2**62]), codes([3, 0]))) == 0
    swapped = trend((codes([0, 1]), codes([0, 1])), (codes([0, 1]), codes([1, 0])))
    assert swapped == 0 and trend((codes([0, 1]), numbers([0, 1])), (codes([0, 1]), numbers([3, 7]))) == 1  # own bins
    assert trend((codes([0, 1]), numbers([3, 3])), (codes([1, 0]), numbers([5, 5]))) == 1


def test_columns_that_cannot_be_compared_do_not_count() -> None:
    real = [numbers([1, 2, 3, 4], "x"), numbers([5] * 4, "flat"), codes([-1] * 4, "empty")]
    made = trends(real, real)
    assert list(made) == [(x.name, y.name) for x, y in combinations(real, 2)]
    assert math.isnan(made["x", "flat"]) and math.isnan(shapes(real, real)["empty"])
    assert table.quality(real, real) == 1 and table.quality(real, real, above=(0.5, 0.3)) == 1
    assert math.isnan(table.quality(real[2:], real[2:]))


def test_what_is_nearer_to_training() -> None:
    train, held, fake = numbers([0, 1, 2, 10]), numbers([0, 4, 6, 10]), numbers([1, 2.5, 3.5, 10])
    assert table.nearer_to_training([fake], [train], [held]) == 0.5
    assert table.overfitting_protection([fake], [train], [held]) == 1
    assert table.overfitting_protection([train], [train], [numbers([20, 30])]) == 0
