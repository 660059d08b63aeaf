"""How good made tables are: how like real ones their columns and pairs of columns are, and how near their rows lie to them.

Definitions are those of SDMetrics (docs.sdv.dev/sdmetrics), version 0.32, whose figures these are to 1e-6. Of a share or a
likeness 1 is the best, and NaN stands where it is not defined, as for a column without any value. Dates are numbers here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, compress
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genloom.metrics.chances import wilson

BINS = 10  # of equal width, that a number is cut into beside a discrete column
SPAN = 4096  # rows compared with `chunk` others at a time: their sums of 16 bits stay in a core's own cache
GAP = 4.0  # where missing numbers lie on the scale of `_scaled`: 1 or more from all others, 0 from one another
CLOSE = 1e-9  # of a range, what rounding may add to a tolerance


class Column(NamedTuple):
    """One column of a table: numbers f64 [N] with NaN where missing, or codes i64 [N], -1 where missing.

    The same code is the same value in every table compared.
    """

    name: str
    values: np.ndarray
    discrete: bool


Table = Sequence[Column]
Pair = tuple[Column, Column]

# ── single columns ───────────────────────────────────────────────────────────────────────────────────────────────


def shape(real: Column, fake: Column) -> float:
    """[0, 1]: how like two distributions are; what is missing is left out.

    1 - Kolmogorov and Smirnov's largest gap between the shares of numbers up to a value; of codes 1 - total variation.
    """
    x, y = given(real), given(fake)
    if not len(x) or not len(y):
        return math.nan
    if real.discrete:
        return 1 - _variation(x, y)
    steps = np.concatenate([x, y])
    up_to = [np.searchsorted(np.sort(z), steps, side="right") / len(z) for z in (x, y)]
    return 1 - float(np.abs(up_to[0] - up_to[1]).max())


def adherence(real: Column, fake: Column) -> float:
    """[0, 1]: share of made values that lie between the least and the largest real one, or are one of the real codes.

    What is missing is left out where real values are missing too, and else lies outside.
    """
    x, y = given(real), given(fake)
    within = np.isin(y, x) if real.discrete else (y >= x.min(initial=np.inf)) & (y <= x.max(initial=-np.inf))
    count = len(y) if len(x) < len(real.values) else len(fake.values)
    return float(within.sum() / count) if count else math.nan


def coverage(real: Column, fake: Column) -> float:
    """[0, 1]: share of the real range that lies between the least and the largest made number, or of the real codes made."""
    x, y = given(real), given(fake)
    if not len(x) or not len(y):
        return math.nan
    if real.discrete:
        return float(np.isin(np.unique(x), y).mean())
    lost = max(y.min() - x.min(), 0) + max(x.max() - y.max(), 0)
    return max(1 - float(lost / np.ptp(x)), 0.0) if np.ptp(x) else math.nan


def missing(real: Column, fake: Column) -> float:
    """[0, 1]: 1 - the difference of the shares of missing values."""
    x, y = (len(given(column)) / max(len(column.values), 1) for column in (real, fake))
    return 1 - abs(x - y)


def statistic(real: Column, fake: Column, of: Callable[[np.ndarray], float]) -> float:
    """[0, 1]: 1 - the difference of a statistic of the numbers, such as their mean or median, over the real range."""
    x, y = given(real), given(fake)
    if not len(x) or not len(y) or not np.ptp(x):
        return math.nan
    return max(1 - float(abs(of(x) - of(y)) / np.ptp(x)), 0.0)


def given(column: Column) -> np.ndarray:
    """The values that are not missing, [n] of [N]."""
    return column.values[column.values != -1 if column.discrete else ~np.isnan(column.values)]


def _variation(x: np.ndarray, y: np.ndarray) -> float:
    """Total variation of two sets of whole numbers [N] and [M]: half the sum of the differences of their frequencies."""
    values, places = np.unique(np.concatenate([x, y]), return_inverse=True)
    p, q = (np.bincount(z, minlength=len(values)) / len(z) for z in np.split(places, [len(x)]))
    return float(np.abs(p - q).sum() / 2)


# ── pairs of columns ─────────────────────────────────────────────────────────────────────────────────────────────


def trend(real: Pair, fake: Pair, *, ranked: bool = False) -> float:
    """[0, 1]: how like the real one the made relation of two columns is; NaN where one of two numbers does not vary.

    1 - half the difference of the correlations of two numbers, of their ranks if `ranked`; else 1 - total variation of the
    joint frequencies, with missing as a value of its own and numbers cut into bins.
    """
    if not real[0].discrete and not real[1].discrete:
        return 1 - abs(correlation(*real, ranked=ranked) - correlation(*fake, ranked=ranked)) / 2
    rows = len(real[0].values)
    if not rows or not len(fake[0].values):
        return math.nan
    first, second = (np.concatenate([_classes(x), _classes(y)]) for x, y in zip(real, fake, strict=True))
    crossed = _crossed(first, second)
    return 1 - _variation(crossed[:rows], crossed[rows:])


def correlation(x: Column, y: Column, *, ranked: bool = False) -> float:
    """[-1, 1]: Pearson's of two numbers over the rows that give both, Spearman's if `ranked`; NaN where one is constant."""
    both = ~(np.isnan(x.values) | np.isnan(y.values))
    a, b = x.values[both], y.values[both]
    if len(a) < 2 or not np.ptp(a) or not np.ptp(b):
        return math.nan
    a, b = (_ranks(z) if ranked else z - z.min() for z in (a, b))  # exact where numbers hardly differ, as a mean is not
    a, b = ((z - z.mean()) / np.linalg.norm(z - z.mean()) for z in (a, b))
    return float(np.clip(a @ b, -1, 1))


def association(x: Column, y: Column) -> float:
    """[0, 1]: Cramér's V of two columns, uncorrected, numbers cut into bins; NaN where one does not vary."""
    a, b = (np.unique(_classes(z), return_inverse=True)[1] for z in (x, y))  # [N]
    least = min(a.max(initial=0), b.max(initial=0))
    if not least:
        return math.nan
    cells, counts = np.unique(_crossed(a, b), return_counts=True)
    expected = np.bincount(a)[cells // (b.max() + 1)] * np.bincount(b)[cells % (b.max() + 1)]  # times N
    return math.sqrt(max(float((counts**2 / expected).sum()) - 1, 0.0) / int(least))  # chi² / N, over empty cells too


def shapes(real: Table, fake: Table) -> dict[str, float]:
    """`shape` of every column, by its name."""
    return {x.name: shape(x, y) for x, y in zip(real, fake, strict=True)}


def trends(real: Table, fake: Table) -> dict[tuple[str, str], float]:
    """`trend` of every pair of columns, by their names."""
    columns = list(zip(real, fake, strict=True))
    return {(x.name, y.name): trend((x, y), (u, v)) for (x, u), (y, v) in combinations(columns, 2)}


def quality(real: Table, fake: Table, *, above: tuple[float, float] | None = None) -> float:
    """[0, 1]: mean of the mean of `shapes` and the mean of `trends`, of those that are defined.

    `above`: only pairs whose real correlation, or association where one is discrete, is stronger; (0.5, 0.3) in SDMetrics.
    """
    of_pairs: Iterable[float] = trends(real, fake).values()
    if above:
        linear, joint = above
        pairs = ((x, y, x.discrete or y.discrete) for x, y in combinations(real, 2))
        strong = [association(x, y) > joint if d else abs(correlation(x, y)) > linear for x, y, d in pairs]
        of_pairs = compress(of_pairs, strong)
    found = shapes(real, fake).values(), of_pairs
    means = [fmean(known) for known in ([v for v in part if not math.isnan(v)] for part in found) if known]
    return fmean(means) if means else math.nan


def _classes(column: Column) -> np.ndarray:
    """i64 [N]: codes as they are; of numbers 1 to 10 for bins between the least and the largest, 11 for the largest itself
    and for what is missing. Each table has its own bins, so a range that is not the real one shows."""
    if column.discrete:
        return column.values
    known = given(column) if len(given(column)) else np.zeros(1)
    wide = 0.0 if np.ptp(known) else 0.5  # of a bin on either side of the only value
    edges = np.linspace(known.min() - wide, known.max() + wide, BINS + 1)
    return np.searchsorted(edges, column.values, side="right")


def _crossed(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """i64 [N]: a number for each pair of whole numbers [N], counted from 0 and row by row."""
    x, y = (np.unique(z, return_inverse=True)[1] for z in (x, y))  # codes may be large, and their products too large
    return x * (y.max() + 1) + y


def _ranks(x: np.ndarray) -> np.ndarray:
    """[N]: places in ascending order; those of equal numbers are the mean of theirs."""
    _, places, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def nearest_rows(
    rows: Table, among: Table, *, ranges: Table | None = None, chunk: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """The distance [0, 1], f64 [n], of each row to the nearest of `among`, and the number of that, i64 [n].

    A distance is the mean over columns of |difference| / range of `ranges`, or of `among`, at most 1, and of 0 or 1 for codes;
    missing on one side counts 1, on both 0. `chunk` rows are compared with 4096 at a time, first in whole numbers of 16 bits; whatever may be
    the nearest by these is measured in float64.
    """
    a, b = _scaled(rows, among, ranges)  # [C, n], [C, m]
    kept = np.sort(np.unique(b, axis=1, return_index=True)[1])  # of rows that are the same only the first is compared
    b = b[:, kept]
    # As many units to a difference of 1 as let the sum over columns, and one number's difference from GAP, fit in 16 bits.
    unit = max((32767 - 2 * len(a)) // max(len(a), 6), 1)
    coarse = [_coarse(*each, unit) for each in zip(a, b, (column.discrete for column in among), strict=True)]
    slack = 2 * sum(not column.discrete for column in among)  # rounding moves a number's part by a unit, in both sums
    best, number = np.full(a.shape[1], np.inf), np.full(a.shape[1], -1)
    for i in range(0, a.shape[1], chunk):
        least = torch.full((min(chunk, a.shape[1] - i),), len(a) * unit, dtype=torch.int16)
        for j in range(0, b.shape[1], SPAN):
            sums = _sums(coarse, slice(i, i + chunk), slice(j, j + SPAN))  # [r, s]
            least = torch.minimum(least, sums.amin(1))
            near = np.flatnonzero((sums <= (least + slack)[:, None]).numpy())
            r, s = near // sums.shape[1] + i, near % sums.shape[1] + j
            apart = sum((np.minimum(np.abs(x[r] - y[s]), 1) for x, y in zip(a, b, strict=True)), np.zeros(len(r)))
            order = np.lexsort((apart, r))  # stable: of rows as near the first
            first = order[np.unique(r[order], return_index=True)[1]]
            first = first[apart[first] < best[r[first]]]
            best[r[first]], number[r[first]] = apart[first], kept[s[first]]
    return best / len(a), number


def nearer_to_training(fake: Table, train: Table, holdout: Table, ranges: Table | None = None) -> float:
    """[0, 1]: share of made rows strictly nearer to a row of training than to one held out; numbers have the ranges of a
    table, or in each of both its own, by which that with the farther outlier is nearer.

    About a half where nothing is learnt by heart, if as many rows are held out as trained on.
    """
    near, far = (nearest_rows(fake, table, ranges=ranges)[0] for table in (train, holdout))
    return float((near < far).mean())


def sides_nearer(made: Table, train: Table, holdout: Table, ranges: Table) -> tuple[float, float, float]:
    """[0, 1]: share of made rows nearer to a row of training than to one held out, ties by half; and its 95 % interval.

    Both sides are drawn by chance too: rows that have the same nearest one lean to its side together, so the interval is that
    of as many independent rows as the weights of the nearest ones are worth (Kish 1965).
    """
    near, ours = nearest_rows(made, train, ranges=ranges)
    far, theirs = nearest_rows(made, holdout, ranges=ranges)
    leaning = (np.sign(far - near) + 1) / 2
    weights = np.concatenate([np.bincount(ours, leaning), np.bincount(theirs, 1 - leaning)])
    worth = len(leaning) ** 2 / float((weights**2).sum())
    value = float(leaning.mean())
    return value, *wilson(value * worth, worth)


def overfitting_protection(fake: Table, train: Table, holdout: Table) -> float:
    """[0, 1]: 1 where at most half of the made rows are `nearer_to_training`, 0 where all are."""
    return min(1.0, 2 * (1 - nearer_to_training(fake, train, holdout)))


def new_rows(fake: Table, real: Table, tolerance: float = 0.01) -> float:
    """[0, 1]: share of made rows that match no real one: that has in every column the same code, a number that differs by at
    most `tolerance`, below 1, of the real range, or both nothing."""
    reach, discrete = tolerance + CLOSE, np.array([column.discrete for column in real])
    a, b = _scaled(fake, real)
    both = np.concatenate([a, b], 1)
    codes = np.vstack([both[discrete], np.zeros(both.shape[1])])
    code = np.unique(codes, axis=1, return_inverse=True)[1].reshape(1, -1)  # one for all codes of a row together
    a, b = np.split(np.concatenate([code, both[~discrete]]), [a.shape[1]], axis=1)
    # Rows that match in one column stand together in its order: the column is taken that leaves fewest to be compared.
    order, start, count = min((_window(x, y, reach) for x, y in zip(a, b, strict=True)), key=lambda w: w[2].sum())
    matched = np.zeros(a.shape[1], bool)
    for i in range(0, len(matched), 64):
        r = np.repeat(np.arange(i, i + len(count[i : i + 64])), count[i : i + 64])
        s = order[start[r] + np.arange(len(r)) - np.searchsorted(r, r)]
        for x, y in zip(a, b, strict=True):
            alike = np.abs(x[r] - y[s]) <= reach
            r, s = r[alike], s[alike]
        matched[r] = True
    return float(1 - matched.mean())


def _window(x: np.ndarray, y: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order [m] of y, where in it begins what lies within reach of each of x, [n], and how much that is, [n]."""
    order = np.argsort(y, kind="stable")
    start, stop = np.searchsorted(y[order], x - reach), np.searchsorted(y[order], x + reach, side="right")
    return order, start, stop - start


def _scaled(rows: Table, among: Table, ranges: Table | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Both tables as f64 [C, n] and [C, m], in which min(|difference|, 1) is the distance of two values.

    Numbers have the range of `ranges`, or of `among`, as [0, 1], all beyond twice of it cut off, and GAP where missing; codes
    count from 0.
    """
    a, b = np.empty((len(rows), len(rows[0].values))), np.empty((len(among), len(among[0].values)))
    for i, (x, y, wide) in enumerate(zip(rows, among, ranges or among, strict=True)):
        both = np.concatenate([x.values, y.values])
        if y.discrete:
            scaled = np.unique(both, return_inverse=True)[1].astype(np.float64)
        else:
            known = given(wide) if len(given(wide)) else np.zeros(1)
            far = both - known.min()
            far = np.clip(far / np.ptp(known), -1, 2) if np.ptp(known) else np.sign(far)
            scaled = np.where(np.isnan(far), GAP, far)
        a[i], b[i] = np.split(scaled, [a.shape[1]])
    return a, b


def _coarse(x: np.ndarray, y: np.ndarray, discrete: bool, unit: int) -> tuple[Tensor, Tensor, int, int]:
    """A column of `_scaled`, [n] and [m], in whole numbers of 16 bits, or 32 for more codes than these hold; the difference
    in them that counts 1; and how many units each is."""
    one = 1 if discrete else unit
    bits = np.int32 if discrete and max(x.max(initial=0), y.max(initial=0)) > 32767 else np.int16
    x, y = (np.rint(z * one).astype(bits) for z in (x, y))
    return torch.from_numpy(x), torch.from_numpy(y), one, unit // one


def _sums(coarse: list[tuple[Tensor, Tensor, int, int]], here: slice, there: slice) -> Tensor:
    """int16 [r, s]: distances of a part of the rows to a part of the others, summed over columns, in units."""
    total = torch.zeros(len(coarse[0][0][here]), len(coarse[0][1][there]), dtype=torch.int16)
    for x, y, one, units in coarse:
        total.add_((x[here, None] - y[there]).abs_().clamp_(max=one), alpha=units)
    return total
