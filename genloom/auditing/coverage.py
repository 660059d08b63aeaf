"""Coverage and fairness: which groups of the data the samples leave out or overdo, and for which the model is worse.

A sample is of the group that most of its nearest training items are of, in the features of a network; held-out items are
told the same way, so a judge that errs, errs on both sides.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom.auditing import HELD, Found, Subject
from genloom.auditing.finding import Finding, percent
from genloom.auditing.membership import Judge, side
from genloom.core import Spec
from genloom.data.base import Dataset
from genloom.data.table import numbers_of
from genloom.errors import UserError, unknown
from genloom.measure import DIGITS, images, some_rows
from genloom.measure_table import as_table, data_table
from genloom.metrics.chances import total_variation, wilson
from genloom.metrics.distribution import nearest, neighbourhoods
from genloom.metrics.features import Extractor, extractor

VOTES = 5
KNOWN = {"digits": 10_000}  # training items that vote
FEWER = 2_000
HALF, DOUBLE = 0.5, 2.0  # of its share in the data: below it is left out, above overdone
ENOUGH = 50  # items of a group on each side, to say how good its samples are
SHOWN = 6
MANY = 20  # values of a column, beyond which each is too rare to be a group


def look(subject: Subject, found: Found) -> None:
    """Adds the groups' shares and, where there are enough of each, how good they are."""
    data = subject.grouped or subject.data
    truth = data.labels()
    if subject.run.spec.modality == "table":
        return _categories(subject, found)
    if subject.run.spec.modality != "image":
        if truth is not None:
            found.cannot.append(
                "Which groups are left out is told of pictures alone: what is made here was not counted."
            )
        return
    if truth is None or len(data.spec.classes) < 2:
        lacking = (
            "the data has no classes. Give --attributes"
            if subject.grouped is None
            else f"--attributes gives all pictures one value, {data.spec.classes[0]}. Give a file with two or more"
        )
        found.cannot.append(f"Which groups are left out cannot be told: {lacking}.")
        return
    if subject.grouped is not None and len(data) < len(subject.data):
        found.cannot.append(
            f"--attributes names {len(data):,} of {len(subject.data):,} training pictures: groups are told of these alone."
        )
    rows, real_rows, real = _split(subject, data)
    voters = voters_of(data, rows)
    made = subject.made
    ours, theirs = voters.features(made.split(500)), voters.features(images(real, real_rows))
    votes = voters.vote(ours), voters.vote(theirs)
    shares = _shares(*votes, data.spec)
    asked = subject.grouped is None and subject.model.takes("label")
    _judged(shares, found, votes, voters.eye.name, asked, subject.seed)
    found.more["groups"] = shares
    _quality(found, voters, ours, theirs, subject.seed)
    _losses(subject, data, found)


def _categories(subject: Subject, found: Found) -> None:
    """Adds the shares of every category of a table, or of the columns that were asked for, and the loss of each group."""
    data = subject.data if subject.holdout is None else subject.holdout
    made = as_table(numbers_of(subject.made, subject.run.spec), subject.run.spec)
    real, told = data_table(data), subject.run.spec.extra["columns"]
    asked = [name.strip() for name in subject.by.split(",")] if subject.by else None
    known = [c.name for c in real if c.discrete]
    for name in asked or ():
        if name not in known:
            raise unknown("column of categories", name, known)
    chosen = [
        i for i, c in enumerate(real) if c.discrete and (c.name in asked if asked else len(told[i]["values"]) <= MANY)
    ]
    if not chosen:
        found.cannot.append("Which groups are left out cannot be told: no column is a category of few values.")
        return
    groups: dict[str, dict[str, Any]] = {}
    apart: list[tuple[np.ndarray, np.ndarray]] = []
    for i in chosen:
        names = tuple(f"{real[i].name} = {value}" for value in told[i]["values"])
        sides = [torch.from_numpy(side[i].values) for side in (made, real)]
        groups |= _shares(sides[0], sides[1], Spec("table", (), names))
        apart.append((made[i].values, real[i].values))
    wrong = {k: v for k, v in groups.items() if v["state"]}
    told_of = [
        f"{k} {v['state']} ({percent(v['samples'])} of rows, {percent(v['data'])} of the data)"
        for k, v in wrong.items()
    ]
    sentence = (
        f"Of {len(groups)} groups {len(wrong)} are not made as often as they should be: {'; '.join(told_of[:SHOWN])}."
        if wrong
        else f"None of {len(groups)} groups in {len(chosen)} columns is left out or made twice too often."
    )
    method = (
        f"largest total variation between the shares of categories in {len(subject.made):,} made rows and {len(data):,} real ones, "
        f"over {len(chosen)} columns; left out: below half of its share, overdone: above twice"
    )
    figures = total_variation(apart, subject.seed)
    found.findings.append(Finding("groups", method, len(subject.made), *figures, None, bool(wrong), sentence))
    found.more["groups"] = groups
    _losses_of_rows(subject, [(i, tuple(told[i]["values"])) for i in chosen], groups)


def _losses_of_rows(
    subject: Subject, chosen: list[tuple[int, tuple[str, ...]]], groups: dict[str, dict[str, Any]]
) -> None:
    """Adds the mean loss of each group's training rows."""
    rows = some_rows(len(subject.data), FEWER, subject.seed)
    try:
        judge = Judge(subject.run, subject.seed)
        scores = judge.scores(side(subject.data, rows))[0]
    except UserError:
        return  # said beside membership
    if judge.critic:
        return
    table = data_table(subject.data)
    for i, values in chosen:
        for code, value in enumerate(values):
            own = scores[table[i].values[rows] == code]
            if len(own) >= 10:
                groups[f"{table[i].name} = {value}"]["loss"] = -float(own.mean())


class Voters:
    """Training items [N] with their groups, that say of which group another is."""

    def __init__(self, eye: Extractor, data: Dataset, rows: np.ndarray, groups: Tensor):
        self.eye, self.groups = eye, groups
        self.known = self.features(images(data, rows))
        self.votes: dict[int, Tensor] = {}

    def features(self, batches: Any) -> Tensor:
        return torch.cat([self.eye.features(x)[0] for x in batches])

    def vote(self, features: Tensor) -> Tensor:
        """[n] the group of most of the five nearest; of as many, that of the nearest of these."""
        rows = nearest(features, self.known, min(VOTES, len(self.known)))[1]
        near = self.groups[rows]
        same = (near[:, :, None] == near[:, None]).sum(2)  # [n, 5]: how many are of the group of each
        best = (same * VOTES - torch.arange(near.shape[1])).argmax(1)
        found = near.gather(1, best[:, None])[:, 0]
        self.votes[id(features)] = found
        return found

    def voted(self, features: Tensor) -> Tensor:
        return self.votes[id(features)]


def judge_of(data: Dataset) -> Extractor:
    """The network in whose features the pictures of a data set are told."""
    return extractor("digits" if data.name in DIGITS else "lite0")


def voters_of(data: Dataset, rows: np.ndarray) -> Voters:
    """Those items of a data set with classes."""
    truth = data.labels()
    assert truth is not None
    return Voters(judge_of(data), data, rows, truth[rows])


def voting(data: Dataset, seed: int) -> np.ndarray:
    """The numbers of the items that vote."""
    return some_rows(len(data), KNOWN.get(judge_of(data).name, FEWER), seed)


def _split(subject: Subject, data: Dataset) -> tuple[np.ndarray, np.ndarray, Dataset]:
    """The numbers of the voters, and of real items of which none is a voter, with the data that these are of: an item that
    votes for itself is told better than any sample. Where nothing was held out, of few items a third is told by the rest."""
    most, voters = max(subject.n, HELD), voting(data, subject.seed)
    if subject.holdout is not None:
        return voters, subject.held(most), subject.holdout
    rest = np.setdiff1d(np.arange(len(data)), voters)
    if len(rest) < min(most, len(data) // 3):
        told = some_rows(len(data), min(most, max(1, len(data) // 3)), subject.seed)
        return np.setdiff1d(voters, told), told, data
    return voters, rest[some_rows(len(rest), most, subject.seed)], data


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


def _judged(
    shares: dict[str, dict[str, Any]], found: Found, votes: tuple[Tensor, Tensor], judge: str, asked: bool, seed: int
) -> None:
    """The finding: how far the shares are apart, and which groups are left out or overdone."""
    wrong = {k: v for k, v in shares.items() if v["state"]}
    worst = max(shares.values(), key=lambda v: abs(v["samples"] - v["data"]))
    name = next(k for k, v in shares.items() if v is worst)
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
    made, real = (v.numpy() for v in votes)
    method = (
        f"total variation between the shares of groups in {len(made):,} samples and {len(real):,} real items, each told by its "
        f"{VOTES} nearest labelled training items in the features of {judge}; left out: below half of its share, overdone: above "
        "twice"
    )
    figures = total_variation([(made, real)], seed)
    found.findings.append(Finding("groups", method, len(made), *figures, None, bool(wrong), sentence))


def _quality(found: Found, voters: Voters, made: Tensor, real: Tensor, seed: int) -> None:
    """Adds precision and recall (Kynkäänniemi et al. 2019), with intervals, within each group that has enough on both sides.

    Both grow and shrink with how many items there are, so all groups are judged by as many: the fewest that one of them has.
    """
    sides: dict[str, tuple[Tensor, Tensor]] = {}
    for i, name in enumerate(found.more["groups"]):
        mine, theirs = made[voters.voted(made) == i], real[voters.voted(real) == i]
        if min(len(mine), len(theirs)) >= ENOUGH:
            sides[name] = mine, theirs
    count = min((len(x) for both in sides.values() for x in both), default=0)
    for name, both in sides.items():
        mine, theirs = (x[some_rows(len(x), count, seed)] for x in both)
        around = neighbourhoods(theirs, mine)
        for what, share in (("precision", around.precision), ("recall", around.recall)):
            low, high = wilson(share.value * count, count)
            found.more["groups"][name] |= {what: share.value, f"{what}_low": low, f"{what}_high": high}
    if count:
        found.more["judged"] = count


def _losses(subject: Subject, data: Dataset, found: Found) -> None:
    """Adds the mean loss of each group's items."""
    if subject.grouped is not None and subject.model.spec.classes:
        return  # its losses ask for classes of its own
    rows = some_rows(len(data), FEWER, subject.seed)
    try:
        judge = Judge(subject.run, subject.seed)
        scores = torch.from_numpy(judge.scores(side(data, rows))[0])
    except UserError:
        return  # said beside membership
    if judge.critic:
        return  # it judges items, not how well they are made
    truth = data.labels()
    assert truth is not None
    for i, group in enumerate(found.more["groups"].values()):
        own = scores[truth[rows] == i]
        if len(own) >= 10:
            group["loss"] = -float(own.mean())
