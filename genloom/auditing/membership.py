"""Membership: whether a model's losses tell what it was trained on from what it was not; and canaries.

The score of an item is its negative loss (Yeom et al. 2018), averaged over a few draws of the loss's own noise, or how real
the critic holds it; less that of a reference model where one is given (Carlini et al. 2022). Members score higher: the
direction is fixed beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from genloom import generate
from genloom.auditing import Found, Subject
from genloom.auditing.finding import Finding
from genloom.core import Batch, Model, mix
from genloom.data.base import Dataset
from genloom.data.canaries import TIMES, Planted, canary
from genloom.errors import UserError
from genloom.measure import some_rows
from genloom.metrics.chances import auc, resampled, tpr_at
from genloom.plugins import model_of
from genloom.run import Run

MOST = 2_000  # items of a side
MANY = 10_000  # held-out ones, where that is quick: of so many 0.1 % are enough to tell of
QUICK = 3e13  # items times numbers of each times parameters, below which it is
DRAWS = 4  # of the noise in a loss, at least
EFFORT = 6_400  # losses that are computed where that is more
BATCH = 64
CLASSES = 20  # that items of unknown class are scored under, at most
SHARED = 20  # items that share their noise, at least
CANNOT = "whether items were trained on cannot be concluded"
FEWEST = 10  # items of a side, from which an interval means something
ALARMS = 10  # false ones, below which a threshold is a matter of single items
FRESH = 1_000  # canaries that were never planted, beside each that was
NEVER = 1_000_000  # the number of the first of them


Side = tuple[int, Callable[[np.ndarray], Batch]]  # how many items there are, and what makes a batch of some of them


def side(data: Dataset, rows: np.ndarray) -> Side:
    """Those items of a data set."""
    return len(rows), lambda some: data.batch(rows[some])


def under_each(data: Dataset, rows: np.ndarray, classes: Sequence[int]) -> Side:
    """Those items under each of some classes, in turn."""
    numbers, k = torch.tensor(classes), len(classes)
    return k * len(rows), lambda some: data.batch(rows[some // k]) | {"label": numbers[some % k]}


class LackingError(UserError):
    """Items lack what a model's losses ask for."""


class Judge:
    """Scores items by a run's critic, where the model has one, or its losses; `words` says which, once it has."""

    def __init__(self, run: Run, seed: int):
        if model_of(run).samples_with and not run.has_state():
            raise UserError(f"{CANNOT}: what scores them is in state/, which is gone from this run")
        self.model, self.seed = generate.load(run), seed
        self.words, self.critic = "losses", False

    def most(self) -> int:
        """Held-out items that are scored, at most."""
        work = math.prod(self.model.spec.shape) * sum(p.numel() for p in self.model.parameters())
        return MANY if MANY * work <= QUICK else MOST

    @torch.inference_mode()
    def scores(self, *sides: Side) -> list[np.ndarray]:
        """[n] of the items of each side.

        A loss with noise of its own is averaged over draws of that. Items at the same place of a batch share them, so what the
        noise does to a loss is known and taken off: the mean of all sides at that place.
        """
        total = sum(n for n, _ in sides)
        size = max(1, min(BATCH, total // SHARED))
        first = self._batch(sides[0], np.arange(size) % sides[0][0])
        drawn = not torch.equal(self._once(first, 0), self._once(first, 1))
        draws = max(DRAWS, min(4 * DRAWS, EFFORT // total)) if drawn else 1
        found = [self._all(each, size, draws) for each in sides]
        if drawn:
            self.words += f", mean of {draws} draws of its noise"
        return _evened(found, size) if drawn else [x[:, 0] for x in found]

    def _all(self, each: Side, size: int, draws: int) -> np.ndarray:
        """[n, draws] of one side, in batches that are all of one size: the same noise at the same place."""
        n, parts = each[0], []
        for i in range(0, n, size):
            batch = self._batch(each, np.resize(np.arange(i, min(i + size, n)), size))
            parts.append(torch.stack([self._once(batch, k) for k in range(draws)], 1))
        return torch.cat(parts)[:n].double().numpy()

    def _batch(self, each: Side, some: np.ndarray) -> Batch:
        return {k: v.to(self.model.device) for k, v in each[1](some).items()}

    def _once(self, batch: Batch, draw: int) -> torch.Tensor:
        """[B] of one draw. Raises UserError where the items lack what the model asks for."""
        with torch.random.fork_rng():
            torch.manual_seed(mix(self.seed, draw))
            try:
                if (critic := self.model.critic(batch)) is not None:
                    self.words, self.critic = "how real its critic holds each", True
                    return critic.float().flatten(1).mean(1).cpu() if critic.ndim > 1 else critic.float().cpu()
                self.words = "the loss of each"
                return -_loss(self.model, batch)
            except KeyError as lacking:
                raise LackingError(
                    f"{CANNOT}: this model asks for the {lacking.args[0]} of each, and held-out items have none that it knows"
                ) from None


def _evened(found: list[np.ndarray], size: int) -> list[np.ndarray]:
    """Means over draws [n] of scores [n, draws], less what their place in a batch of that size does to all."""
    both = np.concatenate(found)
    both[~np.isfinite(both)] = np.nan
    places = np.concatenate([np.arange(len(x)) % size for x in found])
    usual = np.stack([np.nanmean(both[places == p], 0) for p in range(places.max() + 1)])
    even = np.mean(both - usual[places], 1) + np.nanmean(both)
    return np.split(even, np.cumsum([len(x) for x in found])[:-1])


def _loss(model: Model, batch: Batch) -> torch.Tensor:
    """[B]: the terms of the first phase that are an item's own. Raises UserError where none is."""
    count = len(next(iter(batch.values())))
    with generate.autocast(model.device, generate.resolve_precision(model, "auto")):
        terms = [v.float().cpu() for v in model(batch, model.phases()[0].name).values() if v.shape == (count,)]
    if not terms:
        raise UserError(f"{CANNOT}: '{model.name}' has no loss of single items")
    return torch.stack(terms).sum(0)


def look(subject: Subject, found: Found) -> None:
    """Adds membership and canaries to the findings."""
    try:
        judge = Judge(subject.run, subject.seed)
        if subject.holdout is None:
            found.cannot.append(
                "Whether items were trained on cannot be told from losses: there is nothing that was not. Give --holdout."
            )
        else:
            _members(subject, subject.holdout, judge, found)
        if isinstance(subject.train, Planted):
            _canaries(subject.train, judge, found)
    except UserError as error:
        sentence = str(error).rstrip(".")
        found.cannot.append(f"{sentence[0].upper()}{sentence[1:]}.")


def _members(subject: Subject, holdout: Dataset, judge: Judge, found: Found) -> None:
    seed = subject.seed
    rows = subject.inside(MOST), subject.held(judge.most())
    if min(map(len, rows)) < FEWEST:
        few = f"{len(rows[0]):,} training items and {len(rows[1]):,} held-out ones, without those that are both,"
        raise UserError(f"{CANNOT}: {few} are too few, it takes {FEWEST} of each")
    inside, outside = _sides(subject, holdout, judge, rows)
    calibrated = ""
    if subject.reference is not None:
        usual = _sides(subject, holdout, Judge(subject.reference, seed), rows)
        inside, outside = inside - usual[0], outside - usual[1]
        calibrated = f", less that of {subject.reference.folder.name}"
    good = np.isfinite(inside), np.isfinite(outside)
    inside, outside = inside[good[0]], outside[good[1]]
    if min(len(inside), len(outside)) < FEWEST:
        raise UserError("the losses of this run are not numbers (NaN)")
    value, n = auc(inside, outside), min(len(inside), len(outside))
    low, high = resampled(auc, inside, outside, seed)
    flagged = low > subject.max_membership
    told = f"{judge.words}{calibrated}"
    sides = f"{len(inside):,} training items against {len(outside):,} held-out ones"
    sentence = (
        f"Told from items that it never saw by {told}, its training items come first {100 * value:.0f} times in 100 "
        f"({100 * low:.0f} to {100 * high:.0f}; chance is 50): "
        + (
            "it gives away who was in the data."
            if flagged
            else "who was in the data is not told better than by chance."
            if low <= 0.5
            else "weakly, no more than is allowed."
        )
    )
    method = f"{told}; {sides}"
    limit = subject.max_membership
    found.findings.append(Finding("membership-auc", method, n, value, low, high, limit, flagged, sentence))
    for fpr in (0.01, 0.001):
        _caught(inside, outside, fpr, method, seed, found)


def _sides(subject: Subject, holdout: Dataset, judge: Judge, both: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """Scores of those training items and of those held-out ones.

    Where those are of no class that the model knows, both are scored under the class that fits each best: under their own and
    none, the classes alone would tell them apart.
    """
    data, classes = subject.data, len(judge.model.spec.classes)
    rows, others = both
    try:
        return judge.scores(side(data, rows), side(holdout, others))
    except LackingError:
        if not classes or holdout.labels() is not None:
            raise
    some = some_rows(classes, CLASSES, subject.seed).tolist()
    few = (x[some_rows(len(x), MOST // len(some), subject.seed)] for x in (rows, others))
    found = judge.scores(*(under_each(d, x, some) for d, x in zip((data, holdout), few, strict=True)))
    judge.words += f", under the one of {len(some)} classes that fits it best"
    return [x.reshape(-1, len(some)).max(1) for x in found]


def _caught(inside: np.ndarray, outside: np.ndarray, fpr: float, method: str, seed: int, found: Found) -> None:
    """The share of members that are told at so few false alarms: what an attacker can be sure of."""
    alarms, m = math.floor(fpr * len(outside)), len(outside)
    if alarms < ALARMS:
        found.cannot.append(
            f"How many members are told at {100 * fpr:g} % false alarms cannot be concluded from {m:,} held-out items: it takes "
            f"{math.ceil(ALARMS / fpr):,}."
        )
        return
    value, chance = (
        tpr_at(inside, outside, fpr),
        (alarms + 1) / (m + 1),
    )  # were they drawn alike, above the next highest of m
    low, high = resampled(lambda a, b: tpr_at(a, b, fpr), inside, outside, seed)
    sentence = (
        f"At {100 * fpr:g} % false alarms ({alarms:,} of {m:,}) {100 * value:.1f} % of its training items are told "
        f"({100 * low:.1f} to {100 * high:.1f}; chance is {100 * chance:.2g})."
    )
    n = min(len(inside), m)
    found.findings.append(Finding(f"membership-tpr@{fpr:g}", method, n, value, low, high, None, False, sentence))


def _canaries(train: Planted, judge: Judge, found: Found) -> None:
    """Exposure of each planted canary, in bits, and its mean by how often they were planted."""
    like = train.data.batch(np.zeros(1, np.int64))
    count = max(train.rows) + 1

    def made(first: int, n: int) -> Side:
        return n, lambda some: _stacked([canary(train.spec, train.seed, first + int(i), like=like) for i in some])

    ours, fresh = judge.scores(made(0, count), made(NEVER, FRESH))
    times, good = np.array([TIMES[i % len(TIMES)] for i in range(count)]), np.isfinite(ours)
    ours, fresh, times = ours[good], np.sort(fresh[np.isfinite(fresh)]), times[good]
    if not len(ours) or not len(fresh):
        raise UserError("the losses of this run's canaries are not numbers (NaN)")
    first, last = (np.searchsorted(fresh, ours, side) for side in ("left", "right"))
    above = len(fresh) - (first + last) / 2  # ties by half
    bits = math.log2(len(fresh) + 1) - np.log2(above + 1)
    by = {int(t): bits[times == t] for t in np.unique(times)}
    said = ", ".join(f"{len(b)} planted {t}×: {b.mean():.1f}" for t, b in by.items())
    most, least = math.log2(len(fresh) + 1), 1 / math.log(2)
    spread = bits.std(ddof=1) / math.sqrt(len(bits)) if len(bits) > 1 else most
    sentence = (
        f"Canaries are exposed by {bits.mean():.1f} bits on average, of at most {most:.1f}, and {least:.1f} were nothing of them "
        f"remembered ({said})."
    )
    method = f"rank of the loss of each among {FRESH:,} that were never planted; log2(ranks) - log2(rank), Carlini et al. 2019"
    low, high = max(0.0, bits.mean() - 1.96 * spread), min(most, bits.mean() + 1.96 * spread)
    finding = Finding(
        "canary-exposure", method, len(bits), bits.mean().item(), float(low), float(high), None, False, sentence
    )
    found.findings.append(finding)
    found.more["canaries"] = {str(t): [round(float(x), 2) for x in b] for t, b in by.items()}


def _stacked(items: list[dict[str, torch.Tensor]]) -> Batch:
    return {k: torch.stack([x[k] for x in items]) for k in items[0]}
