"""Coverage and fairness: which groups of the data the samples leave out or overdo, and for which the model is worse.

A sample is of the group that most of its nearest training items are of, in the features of a network; held-out items are
told the same way, so a judge that errs, errs on both sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom.auditing import Found, Subject
from genloom.auditing.finding import Finding, percent, wilson
from genloom.auditing.membership import Judge
from genloom.core import Spec
from genloom.data.base import Dataset
from genloom.errors import UserError
from genloom.measure import DIGITS, images, some_rows
from genloom.metrics.distribution import nearest, neighbourhoods
from genloom.metrics.features import Extractor, extractor

VOTES = 5
KNOWN = {"digits": 10_000}  # training items that vote
FEWER = 2_000
HALF, DOUBLE = 0.5, 2.0  # of its share in the data: below it is left out, above overdone
ENOUGH = 50  # items of a group on each side, to say how good its samples are
SHOWN = 6


def look(subject: Subject, found: Found) -> None:
    """Adds the groups' shares and, where there are enough of each, how good they are."""
    data = subject.grouped or subject.data
    truth = data.labels()
    if subject.run.spec.modality != "image" or truth is None:
        if subject.run.spec.modality == "image":
            found.cannot.append("Which groups are left out cannot be told: the data has no classes. Give --attributes.")
        return
    if len(data.spec.classes) < 2:
        return
    voters = voters_of(data, subject.seed)
    real_rows, real = _real(subject, data)
    made = subject.made
    ours, theirs = voters.features(made.split(500)), voters.features(images(real, real_rows))
    shares = _shares(voters.vote(ours), voters.vote(theirs), data.spec)
    _judged(
        shares,
        found,
        len(made),
        len(real_rows),
        voters.eye.name,
        asked=subject.grouped is None and subject.model.takes("label"),
    )
    found.more["groups"] = _quality(shares, voters, ours, theirs) if len(ours) >= ENOUGH else shares
    _losses(subject, data, found)


class Voters:
    """Training items [N] with their groups, that say of which group another is."""

    def __init__(self, eye: Extractor, data: Dataset, rows: np.ndarray, groups: Tensor):
        self.eye, self.groups = eye, groups
        self.known = self.features(images(data, rows))
        self.votes: dict[int, Tensor] = {}

    def features(self, batches: Any) -> Tensor:
        return torch.cat([self.eye.features(x)[0] for x in batches])

    def vote(self, features: Tensor) -> Tensor:
        """[n] the group of most of the five nearest."""
        rows = nearest(features, self.known, min(VOTES, len(self.known)))[1]
        found = self.groups[rows].mode(1).values
        self.votes[id(features)] = found
        return found

    def voted(self, features: Tensor) -> Tensor:
        return self.votes[id(features)]


def voters_of(data: Dataset, seed: int) -> Voters:
    """Those of a data set with classes."""
    eye, truth = extractor("digits" if data.name in DIGITS else "lite0"), data.labels()
    assert truth is not None
    rows = some_rows(len(data), KNOWN.get(eye.name, FEWER), seed)
    return Voters(eye, data, rows, truth[rows])


def _real(subject: Subject, data: Dataset) -> tuple[np.ndarray, Dataset]:
    """Items that none of the voters is of, else the data itself."""
    real = subject.holdout or data
    return some_rows(len(real), max(subject.n, 1_000), subject.seed), real


def _shares(made: Tensor, real: Tensor, spec: Spec) -> dict[str, dict[str, Any]]:
    """Of each group its share of the samples, with an interval, and of the data."""
    found: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(spec.classes):
        mine, theirs = int((made == i).sum()), int((real == i).sum())
        low, high = wilson(mine, len(made))
        least, most = wilson(theirs, len(real))
        state = "left out" if high < HALF * least else "overdone" if low > DOUBLE * most else ""
        found[name] = {
            "samples": mine / len(made),
            "low": low,
            "high": high,
            "data": theirs / len(real),
            "n": mine,
            "n_data": theirs,
            "state": state,
        }
    return found


def _judged(shares: dict[str, dict[str, Any]], found: Found, n: int, m: int, judge: str, asked: bool) -> None:
    wrong = {k: v for k, v in shares.items() if v["state"]}
    worst = max(shares.values(), key=lambda v: abs(v["samples"] - v["data"]))
    name = next(k for k, v in shares.items() if v is worst)
    apart = 0.5 * sum(abs(v["samples"] - v["data"]) for v in shares.values())
    if wrong:
        told = [
            f"{k} {v['state']} ({percent(v['samples'])} of samples, {percent(v['data'])} of the data)"
            for k, v in wrong.items()
        ]
        sentence = (
            f"Of {len(shares)} groups {len(wrong)} are not made as often as they should be: {'; '.join(told[:SHOWN])}."
        )
    else:
        sentence = f"None of {len(shares)} groups is left out or made twice too often; furthest off is {name}, {percent(worst['samples'])} of samples and {percent(worst['data'])} of the data."
    if asked:
        sentence += " Samples were asked for in the data's proportions."
    method = (
        f"total variation between the shares of groups in {n:,} samples and {m:,} real items, each told by its {VOTES} nearest "
        f"labelled training items in the features of {judge}; left out: below half of its share, overdone: above twice"
    )
    low, high = max(0.0, apart - 0.98 * (len(shares) / n) ** 0.5), apart
    found.findings.append(Finding("groups", method, n, apart, low, high, None, bool(wrong), sentence))


def _quality(shares: dict[str, dict[str, Any]], voters: Voters, made: Tensor, real: Tensor) -> dict[str, Any]:
    """Adds precision and recall (Kynkäänniemi et al. 2019) within each group that has enough on both sides."""
    for i, group in enumerate(shares.values()):
        mine, theirs = made[voters.voted(made) == i], real[voters.voted(real) == i]
        if min(len(mine), len(theirs)) >= ENOUGH:
            around = neighbourhoods(theirs, mine)
            group |= {"precision": around.precision.value, "recall": around.recall.value}
    return shares


def _losses(subject: Subject, data: Dataset, found: Found) -> None:
    """Adds how much worse the losses of each group's items are than the mean of all."""
    if subject.grouped is not None and subject.model.spec.classes:
        return  # its losses ask for classes of its own
    rows = some_rows(len(data), FEWER, subject.seed)
    try:
        scores = torch.from_numpy(Judge(subject.run, subject.seed).rows(data, rows))
    except UserError:
        return  # said beside membership
    truth = data.labels()
    assert truth is not None
    for i, group in enumerate(found.more["groups"].values()):
        own = scores[truth[rows] == i]
        if len(own) >= 10:
            group["loss"] = -float(own.mean())
