"""Membership: whether a model's losses tell what it was trained on from what it was not; and canaries.

The score of an item is its negative loss (Yeom et al. 2018), averaged over a few draws of the loss's own noise, or how real
the critic holds it; less that of a reference model where one is given (Carlini et al. 2022). Members score higher: the
direction is fixed beforehand.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from genloom import generate
from genloom.auditing import Found, Subject
from genloom.auditing.finding import Finding, auc, resampled, tpr_at
from genloom.core import Batch, Model, mix
from genloom.data.base import Dataset
from genloom.data.canaries import TIMES, Planted, canary
from genloom.errors import UserError
from genloom.measure import some_rows
from genloom.plugins import model_of
from genloom.run import Run

MOST = 2_000  # items of a side
DRAWS = 4  # of the noise in a loss
BATCH = 64
FRESH = 1_000  # canaries that were never planted, beside each that was
NEVER = 1_000_000  # the number of the first of them


class Judge:
    """Scores items [n] by a run's losses; `words` says which."""

    def __init__(self, run: Run, seed: int):
        if model_of(run).samples_with and not run.has_state():
            raise UserError(
                "whether items were trained on cannot be concluded: what scores them is in state/, which is gone from this run"
            )
        self.model, self.seed = generate.load(run), seed
        self.words = ""

    @torch.inference_mode()
    def batch(self, batch: Batch) -> torch.Tensor:
        moved = {k: v.to(self.model.device) for k, v in batch.items()}
        critic = self.model.critic(moved)
        if critic is not None:
            self.words = "how real its critic holds each"
            return critic.float().flatten(1).mean(1).cpu() if critic.ndim > 1 else critic.float().cpu()
        self.words = f"the loss of each, mean of {DRAWS} draws of its noise"
        total = torch.zeros(len(next(iter(batch.values()))))
        for k in range(DRAWS):
            torch.manual_seed(mix(self.seed, k))
            drawn = _loss(self.model, moved)
            if k and torch.equal(drawn, -total):  # there is no noise in it
                self.words = "the loss of each"
                return total
            total = (total * k - drawn) / (k + 1)
        return total

    def rows(self, data: Dataset, rows: np.ndarray) -> np.ndarray:
        parts = [self.batch(data.batch(rows[i : i + BATCH])) for i in range(0, len(rows), BATCH)]
        return torch.cat(parts).double().numpy()


def _loss(model: Model, batch: Batch) -> torch.Tensor:
    """[B]: the terms of the first phase that are an item's own. Raises UserError where none is."""
    count = len(next(iter(batch.values())))
    with torch.random.fork_rng(), generate.autocast(model.device, generate.resolve_precision(model, "auto")):
        terms = [v.float().cpu() for v in model(batch, model.phases()[0].name).values() if v.shape == (count,)]
    if not terms:
        raise UserError(
            f"whether items were trained on cannot be concluded: '{model.name}' has no loss of single items"
        )
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
    data, seed = subject.data, subject.seed
    rows, others = some_rows(len(data), MOST, seed), some_rows(len(holdout), MOST, seed)
    inside, outside = judge.rows(data, rows), judge.rows(holdout, others)
    calibrated = ""
    if subject.reference is not None:
        if subject.reference.info["model"] != subject.run.info["model"]:
            raise UserError("The reference is of another model: give --reference a run of the same one on other data.")
        other = Judge(subject.reference, seed)
        inside, outside = inside - other.rows(data, rows), outside - other.rows(holdout, others)
        calibrated = f", less that of {subject.reference.folder.name}"
    good = np.isfinite(inside), np.isfinite(outside)
    inside, outside = inside[good[0]], outside[good[1]]
    if min(len(inside), len(outside)) < 2:
        raise UserError("the losses of this run are not numbers (NaN)")
    value, n = auc(inside, outside), min(len(inside), len(outside))
    low, high = resampled(auc, inside, outside, seed)
    flagged = low > subject.max_membership
    told = f"{judge.words}{calibrated}" if judge.words else "losses"
    sides = f"{len(inside):,} training items against {len(outside):,} held-out ones"
    sentence = (
        f"Told from items that it never saw by {told}, its training items come first {100 * value:.0f} times in 100 "
        f"({100 * low:.0f} to {100 * high:.0f}; chance is 50): "
        + (
            "it gives away who was in the data."
            if flagged
            else "it hardly tells who was in the data."
            if high < 0.6
            else "weakly, below what is allowed."
        )
    )
    method = f"{told}; {sides}"
    limit = subject.max_membership
    found.findings.append(Finding("membership-auc", method, n, value, low, high, limit, flagged, sentence))
    for fpr in (0.01, 0.001):
        _caught(inside, outside, fpr, method, seed, found)


def _caught(inside: np.ndarray, outside: np.ndarray, fpr: float, method: str, seed: int, found: Found) -> None:
    """The share of members that are told at so few false alarms: what an attacker can be sure of."""
    if len(outside) * fpr < 1:
        found.cannot.append(
            f"How many members are told at {100 * fpr:g} % false alarms cannot be concluded from {len(outside):,} held-out "
            f"items: it takes {math.ceil(1 / fpr):,}."
        )
        return
    value = tpr_at(inside, outside, fpr)
    low, high = resampled(lambda a, b: tpr_at(a, b, fpr), inside, outside, seed)
    sentence = f"At {100 * fpr:g} % false alarms {100 * value:.1f} % of its training items are told ({100 * low:.1f} to {100 * high:.1f}; chance is {100 * fpr:g})."
    n = min(len(inside), len(outside))
    found.findings.append(Finding(f"membership-tpr@{fpr:g}", method, n, value, low, high, None, False, sentence))


def _canaries(train: Planted, judge: Judge, found: Found) -> None:
    """Exposure of each planted canary, in bits, and its mean by how often they were planted."""
    like = train.data.batch(np.zeros(1, np.int64))
    count = max(train.rows) + 1

    def scores(numbers: range) -> np.ndarray:
        return np.concatenate(
            [_scored(judge, train, like, numbers[i : i + BATCH]) for i in range(0, len(numbers), BATCH)]
        )

    fresh = np.sort(scores(range(NEVER, NEVER + FRESH)))
    ours = scores(range(count))
    above = len(fresh) - np.searchsorted(fresh, ours, "right")
    bits = math.log2(FRESH + 1) - np.log2(above + 1)
    times = np.array([TIMES[i % len(TIMES)] for i in range(count)])
    by = {int(t): bits[times == t] for t in np.unique(times)}
    said = ", ".join(f"{len(b)} planted {t}×: {b.mean():.1f}" for t, b in by.items())
    most, least = math.log2(FRESH + 1), 1 / math.log(2)
    spread = bits.std() / math.sqrt(len(bits)) if len(bits) > 1 else most
    sentence = (
        f"Canaries are exposed by {bits.mean():.1f} bits on average, of at most {most:.1f}, and {least:.1f} were nothing of them "
        f"remembered ({said})."
    )
    method = f"rank of the loss of each among {FRESH:,} that were never planted; log2(ranks) - log2(rank), Carlini et al. 2019"
    low, high = bits.mean() - 1.96 * spread, bits.mean() + 1.96 * spread
    finding = Finding(
        "canary-exposure", method, count, bits.mean().item(), float(low), float(high), None, False, sentence
    )
    found.findings.append(finding)
    found.more["canaries"] = {str(t): [round(float(x), 2) for x in b] for t, b in by.items()}


def _scored(judge: Judge, train: Planted, like: Batch, numbers: range) -> np.ndarray:
    items: list[dict[str, Any]] = [canary(train.spec, train.seed, i, like=like) for i in numbers]
    return judge.batch({k: torch.stack([x[k] for x in items]) for k in items[0]}).double().numpy()
