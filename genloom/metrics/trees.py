"""What boosted trees make of tables: whether they tell two apart, and what they predict of one having learnt from the other.

scikit-learn's histogram-based gradient boosting (Ke et al. 2017), with its own choice of everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from genloom.metrics.chances import auc, resampled
from genloom.metrics.table import Table

FOLDS = 3
FEWEST = 10  # rows of a class, to learn it or to be judged by
CATEGORIES = 255  # that the trees take as such; a wider category goes by its numbers


def told_apart(real: Table, fake: Table, seed: int) -> tuple[float, float, float]:
    """AUC, and the ends of its 95 % interval, of trees that tell real rows from fake ones: each row by trees it was not
    shown to, as many of both. 0.5 is not at all (Lopez-Paz & Oquab 2017)."""
    random = np.random.default_rng(seed)
    count = min(len(real[0].values), len(fake[0].values))
    sides = [_matrix(t)[random.permutation(len(t[0].values))[:count]] for t in (real, fake)]
    x, y = np.concatenate(sides), np.repeat([0, 1], count)
    fold = np.concatenate([np.arange(count) % FOLDS, np.arange(count) % FOLDS])
    scores = np.zeros(len(x))
    for k in range(FOLDS):
        trees = _trees(real, seed).fit(x[fold != k], y[fold != k])
        scores[fold == k] = trees.predict_proba(x[fold == k])[:, 1]
    return _with_interval(scores[y == 1], scores[y == 0], seed)


def predicted(learnt: Table, real: Table, target: int, seed: int) -> tuple[float, float, float] | None:
    """AUC (a class against the rest, mean over classes), and its interval, of a category of `real` predicted by trees that
    learnt from another table (Esteban et al. 2017); None where fewer than two classes have rows enough on both sides."""
    columns = [i for i in range(len(real)) if i != target]
    inside, outside = learnt[target].values, real[target].values
    classes = [k for k in np.unique(inside) if min((inside == k).sum(), (outside == k).sum()) >= FEWEST]
    if len(classes) < 2:
        return None
    own = np.isin(inside, classes)
    parts = [learnt[i] for i in columns]
    trees = _trees(parts, seed).fit(_matrix(parts)[own], inside[own])
    scores = trees.predict_proba(_matrix([real[i] for i in columns]))
    shown = classes[1:] if len(classes) == 2 else classes
    found = [
        _with_interval(scores[outside == k, i], scores[outside != k, i], seed)
        for i, k in enumerate(trees.classes_)
        if k in shown
    ]
    value, low, high = np.mean(found, 0).tolist()
    return value, low, high


def _with_interval(inside: np.ndarray, outside: np.ndarray, seed: int) -> tuple[float, float, float]:
    return auc(inside, outside), *resampled(auc, inside, outside, seed)


def _matrix(table: Table) -> np.ndarray:
    """[N, C] f64; a code that is not given is NaN, as a number is."""
    return np.stack([np.where(c.values < 0, np.nan, c.values) if c.discrete else c.values for c in table], 1)


def _trees(table: Table, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(categorical_features=_categories(table), random_state=seed, max_iter=100)


def _categories(table: Table) -> Sequence[bool]:
    return [c.discrete and int(c.values.max(initial=0)) < CATEGORIES for c in table]
