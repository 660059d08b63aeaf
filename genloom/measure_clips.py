"""A run of clips + data -> metrics.json: what a model makes from nothing beside clips it never saw, as sets of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from genloom import generate, measure
from genloom.core import Model
from genloom.data.catalog import DIGITS
from genloom.data.draw import strips
from genloom.errors import UserError
from genloom.measure import Asked, Features
from genloom.metrics.distribution import mean_estimate
from genloom.metrics.features import Extractor
from genloom.metrics.steadiness import Steadiness, steadiness
from genloom.metrics.video import PROTOCOL, clip_features

METRICS = ("fvd", "kvd", "precision", "recall", "density", "coverage", "nearest", "labels", "steady")
CLIPS, OF_DIGITS = 256, 1_000  # clips that are made, unless others are asked for: a big extractor takes its time
BATCH = 16  # clips at a time
PAIRS = 4  # of the first samples, and of those nearest of all, with the training clip that each is nearest to


def measured(asked: Asked, model: Model, eye: Extractor) -> tuple[dict[str, Any], int]:
    """Distances between sets of clips, copies and, of digits, whether they are those asked for and stay so; and how many clips.

    Beside a distance stands that of training clips. Raises UserError for an unknown measure and for data of another shape.
    """
    run, own, reference, metrics, n, seed, *_ = asked
    wanted, n = measure.chosen(metrics, METRICS, "metric of clips"), n or (OF_DIGITS if eye.name == "digits" else CLIPS)
    measure.check_shape(run, reference)
    digits = eye.name == "digits" and reference.spec.classes == DIGITS
    rows = measure.some_rows(len(reference), n, seed)
    given = measure.labels_to_ask(model, reference, rows, n, seed) | generate.checked(model, asked.conditions)
    real = Looked(eye, measure.images(reference, rows, "video", BATCH), digits)
    made = Looked(eye, generate.drawn(model, n, seed=seed, batch_size=BATCH, **given), digits, keep=True)
    train, train_rows = None, rows
    if own is not None and own.fingerprint != reference.fingerprint:
        train_rows = measure.some_rows(len(own), n, seed)
        train = Looked(eye, measure.images(own, train_rows, "video", BATCH), digits=False).features
    result = of_sets(real.features, made.features, train, eye, wanted, seed)
    if digits:
        truth = reference.labels()
        of_digits(result, wanted, (made, real), (given.get("label"), None if truth is None else truth[rows]), seed)
    if own is not None:
        mine, theirs = measure.nearest_pairs(made.features.features, (train or real.features).features, PAIRS)
        above = strips(own.batch(train_rows[theirs.numpy()])["video"])
        measure.save_pairs(run, above, made.strips[mine], columns=2)
    return result | {"counted": "clips"}, n


def of_sets(
    real: Features, made: Features, train: Features | None, eye: Extractor, wanted: Sequence[str], seed: int
) -> dict[str, Any]:
    """What `evaluate_samples` says of clips, and beside distances the same of training clips: what a perfect model has."""
    names = {v: k for k, v in measure.OF_CLIPS.items()}
    asked = [names.get(m, m) for m in wanted if m not in ("labels", "steady")]
    result: dict[str, Any] = {"metrics": [], "warnings": []}
    if asked:
        result = measure.evaluate_samples(real, made, eye=eye, metrics=asked, train=train, seed=seed)
    result["beside"] = {}
    for m in result["metrics"]:
        if distance := names.get(m["name"].partition("-")[0]):
            m["note"] = "; ".join(filter(None, [m["note"], PROTOCOL]))
            if train is not None:
                floor = measure.DISTANCES[distance](real.features, train.features).value
                result["beside"][m["name"]] = {"training clips": floor}
    return result


class Looked:
    """What an extractor sees of batches of clips: `features`; of `digits`, `said`; and where they are to `keep`, a strip of
    frames of each."""

    def __init__(self, eye: Extractor, batches: Iterable[Tensor], digits: bool, keep: bool = False):
        found, said, kept, frames = list[Tensor](), list[Steadiness](), list[Tensor](), 0
        for clips in batches:
            if not clips.isfinite().all():
                raise UserError("The samples are not numbers (NaN): fit again, with a lower --lr.")
            frames = clips.shape[2]
            seen = eye.features(clips.transpose(1, 2).flatten(0, 1))[0]
            found.append(clip_features(seen.unflatten(0, (len(clips), -1))))
            if digits:
                said.append(steadiness(clips, lambda x: eye.features(x)[1]))  # type: ignore[arg-type, return-value]
            if keep:
                kept.append(((strips(clips).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
        self.features = Features(torch.cat(found), None, frames)
        self.said = Steadiness(*map(torch.cat, zip(*said, strict=True))) if digits else None
        self.strips = torch.cat(kept).float() / 127.5 - 1 if keep else torch.empty(0)


def of_digits(
    result: dict[str, Any],
    wanted: Sequence[str],
    sides: tuple[Looked, Looked],
    labels: tuple[Tensor | None, Tensor | None],
    seed: int,
) -> None:
    """Adds which digits are made, whether they are those asked for, and whether they stay what they are, beside real ones."""
    made, real = (side.said for side in sides)
    assert made is not None and real is not None
    (asked, truth), sizes = labels, (len(made.said), seed, len(real.said))
    right = None if truth is None else float((real.said == truth).double().mean())
    if "labels" in wanted and asked is not None and right is not None:
        figure = mean_estimate(made.said == asked, "by the votes of all its frames")
        result["metrics"].append(measure.row("labels", figure, *sizes))
        result["beside"]["labels"] = {"real": right}
    if "steady" in wanted:
        figure = mean_estimate(made.steady, "of which a classifier says the same of every frame")
        result["metrics"].append(measure.row("steady", figure, *sizes))
        result["beside"]["steady"] = {"real": float(real.steady.mean())}
    result["classes"] = measure.classes_counted(made.said, made.confidence, len(DIGITS))
    if right is not None:
        result["classes"]["judge_accuracy"] = right  # on real clips: how far to trust it
