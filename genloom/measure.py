"""Run + data -> metrics.json: how good, how varied, and how much copied the samples are.

A figure is named by its protocol, `fd-digits@10k`: metric, feature extractor, number of samples. Each carries the
extractor's hash, both counts, and a 95 % bootstrap interval.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genloom import generate
from genloom.core import Model, generator
from genloom.data import open_data
from genloom.data.base import Dataset
from genloom.errors import UserError, unknown
from genloom.metrics import distribution
from genloom.metrics.distribution import Estimate
from genloom.metrics.features import Extractor, extractor
from genloom.plugins import model_of
from genloom.run import Run, atomic
from genloom.seal import weights_of

METRICS = ("fd", "kid", "precision", "recall", "density", "coverage", "is", "nearest", "labels")
DIGITS = ("mnist", "digits", "moving-mnist", "moving-digits")  # the data that the shipped classifier judges
DISTANCES = {"fd": distribution.frechet_distance, "kid": distribution.kernel_distance}
OF_CLIPS = {"fd": "fvd", "kid": "kvd"}  # what they are called between sets of clips
FEWEST = 10  # samples: below, a neighbourhood of five is everything
MOST = 10_000  # samples, unless others are asked for
SMALL = 2000  # below, the bias of a Fréchet distance (about d / N) hides most differences
TRAIN_LOOKED_AT = {"digits": 60_000}  # training pictures searched for copies; with slower extractors, n of them
PAIRS = 10
CHOOSING = ("label", "prompt", "frames", "code", "style")  # conditions that say what is made, not how


class Features(NamedTuple):
    """What an extractor saw: features [N, d], logits [N, classes] or None, and of how many frames each, for clips."""

    features: Tensor
    logits: Tensor | None
    frames: int = 0


Pictures = Features | Tensor | Iterable[Tensor]


class Asked(NamedTuple):
    """What is measured: a run, whose `own` data may not be known, beside the reference, at most n samples of it; and how:
    seen by that extractor, speech made by that vocoder's run, samples drawn with those conditions."""

    run: Run
    own: Dataset | None
    reference: Dataset
    metrics: Sequence[str] | None
    n: int | None
    seed: int
    extractor: str | Extractor
    vocoder: str | None
    conditions: Mapping[str, Any]

    def eye(self) -> Extractor:
        return extractor(self.extractor) if isinstance(self.extractor, str) else self.extractor


def look(eye: Extractor, images: Pictures) -> Features:
    """Features of images [N, C, H, W] in [-1, 1], or of batches of them that need not fit into memory at once."""
    if isinstance(images, Features):
        return images
    features, logits = zip(*map(eye.features, [images] if isinstance(images, Tensor) else images), strict=True)
    return Features(torch.cat(features), None if logits[0] is None else torch.cat(logits))


# ── the figures, from tensors ────────────────────────────────────────────────────────────────────────────────────


def evaluate_samples(
    real: Pictures,
    fake: Pictures,
    *,
    eye: Extractor,
    metrics: Sequence[str] | None = None,
    train: Pictures | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The `metrics`, `classes` and `warnings` of metrics.json for images (batches of them, their features) in [-1, 1].

    `train`: the pictures that the model was trained on, if they are not `real`: without them `nearest` compares with
    `real`. `labels` [N]: the class asked of each fake. Raises UserError for an unknown metric or too few images.
    """
    wanted = chosen(metrics)
    seen = None if train is None else look(eye, train).features
    real, fake = look(eye, real), look(eye, fake)
    n_real, n, dim = len(real.features), *fake.features.shape
    if min(n, n_real) < FEWEST:
        raise UserError(f"{n} samples and {n_real} real items are too few to measure: give {FEWEST} or more.")
    judged = fake.logits if eye.name == "digits" else None
    found, warnings = _estimates(real, fake, wanted, seen), []
    if "labels" in wanted and labels is not None and judged is not None:
        right = judged.argmax(1) == labels.cpu()
        found["labels"] = distribution.mean_estimate(right, "share of samples that are of the class asked for")
    if min(n, n_real) < max(SMALL, dim):
        found = {name: found[name] for name in sorted(found, key=lambda name: name != "kid")}
        warnings.append(
            f"{n:,} samples against {n_real:,} real ones are few: the Fréchet distance is biased upwards by "
            f"about its {dim:,} dimensions over that number, so trust the kernel distance ({'KVD' if fake.frames else 'KID'}) instead."
        )
    count = (f"{n // 1000}k" if n % 1000 == 0 else str(n)) + (f"×{fake.frames}" if fake.frames else "")
    result: dict[str, Any] = {"metrics": [], "warnings": warnings}
    for name, estimate in found.items():
        called = OF_CLIPS.get(name, name) if fake.frames else name
        full = f"{called}-{eye.name}@{count}" if name in ("fd", "kid", "is") else name
        figure = row(full, estimate, n, seed, n_real)
        result["metrics"].append(figure | {"extractor": eye.name, "sha256": eye.sha256})
    if judged is not None:
        confidence, taken_for = judged.softmax(1).max(1)
        result["classes"] = classes_counted(taken_for, confidence, judged.shape[1])
    return result


def chosen(metrics: Sequence[str] | None, known: Collection[str] = METRICS, kind: str = "metric") -> tuple[str, ...]:
    """The metrics asked for, all by default. Raises UserError for one that does not exist."""
    for name in metrics or ():
        if name not in known:
            raise unknown(kind, name, known)
    return tuple(metrics or known)


def row(name: str, estimate: Estimate, n: int, seed: int, n_real: int | None = None) -> dict[str, Any]:
    """A figure as metrics.json has it, of n samples beside as many real items or `n_real`."""
    low, high = estimate.interval(seed=seed)
    of = {"n": n, "n_real": n if n_real is None else n_real, "note": estimate.note}
    return {"name": name, "value": estimate.value, "low": low, "high": high, **of}


@contextmanager
def left_out(name: str, warnings: list[str], *, asked: bool) -> Iterator[None]:
    """Within, a UserError leaves out the measure of that name, with a warning, unless it was asked for."""
    try:
        yield
    except UserError as error:
        if asked:
            raise
        warnings.append(f"'{name}' is left out: {error}")


def _estimates(real: Features, fake: Features, wanted: Sequence[str], train: Tensor | None) -> dict[str, Estimate]:
    x, y = real.features, fake.features
    found = {name: measure(x, y) for name, measure in DISTANCES.items() if name in wanted}
    if any(name in wanted for name in distribution.Neighbourhoods._fields):
        around = distribution.neighbourhoods(x, y)._asdict()
        found |= {name: estimate for name, estimate in around.items() if name in wanted}
    if "is" in wanted and fake.logits is not None:
        found["is"] = distribution.inception_score(fake.logits.double().softmax(1))
    if "nearest" in wanted:
        found["nearest"] = novelty(x, y, train)
    return found


def novelty(real: Tensor, fake: Tensor, train: Tensor | None) -> Estimate:
    """Median distance of a fake to its nearest training item, over that of real items the model has not seen.

    About 1: as new as real ones. Far below 1: copies. Without unseen items (`train` None: `real` was trained on) it is
    over the median distance of a training item to its nearest other one.
    """
    if train is None:
        usual, searched, against = distribution.nearest(real, real, 2)[0][:, 1], real, "training items to each other"
    else:
        usual, searched, against = distribution.nearest(real, train)[0][:, 0], train, "unseen real items to it"
    ours = distribution.nearest(fake, searched)[0][:, 0]
    note = f"median distance to the nearest of {len(searched):,} training items, over that of {against}; 1 is new"
    return distribution.ratio_of_medians(ours, usual, note)


def classes_counted(found: Tensor, confidence: Tensor, classes: int) -> dict[str, Any]:
    """What a classifier sees in the samples: counts, the rarest class's share, entropy in nats, share it is sure of.

    `found` [N]: the class that each is taken for; `confidence` [N]: how sure of it the classifier is.
    """
    counts = torch.bincount(found, minlength=classes)
    shares = counts.double() / len(found)
    return {
        "counts": {str(i): int(c) for i, c in enumerate(counts)},
        "min_share": float(shares.min()),
        "entropy": abs(float(torch.special.xlogy(shares, shares).sum())),
        "confident": float((confidence > 0.9).double().mean()),
    }


# ── a run against data ───────────────────────────────────────────────────────────────────────────────────────────


def evaluate_run(
    run: Run,
    data: str | Path | Dataset | None = None,
    *,
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    extractor: str | Extractor | None = None,
    seed: int = 0,
    vocoder: str | None = None,
    **conditions: Any,
) -> dict[str, Any]:
    """Measure n samples (10,000 pictures; clips: see measure_video) of a run against data (by default the run's own).

    Writes metrics.json and, where copies are looked for, samples/nearest.png.

    The reference is the data's held-out part, or all of it where there is none. Labels asked of a conditional model
    follow the reference's proportions; a model that starts from pictures makes one of each of the reference's sources.
    Rows of a table are as many as were trained on. Speech is made by that `vocoder`'s run, or by Griffin-Lim. `conditions` are numbers that `sample` takes for pictures and
    clips from nothing: guidance, truncation.
    Raises UserError for what the caller can mend.
    """
    started, weights = time.perf_counter(), weights_of(run)
    if n is not None and n < FEWEST:
        raise UserError(f"-n {n} is too few to measure: give {FEWEST} or more, {MOST} for figures to compare.")
    check_conditions(run, conditions)
    own, lost = own_data(run)
    given = open_like(run, data) if isinstance(data, str | Path) else data or own
    if given is None:
        raise UserError(lost)
    reference = given.held_out() or given
    seen_by = extractor or ("digits" if given.name in DIGITS else "lite0")
    asked = Asked(run, own, reference, metrics, n, seed, seen_by, vocoder, conditions)
    modality = run.spec.modality
    measured = _measured_pictures if modality == "image" else import_module(f"genloom.measure_{modality}").measured
    result, n = measured(asked)
    if own is None:
        result["warnings"].append(lost)
    if conditions:
        result["conditions"] = conditions
        told = ", ".join(f"{name} {value}" for name, value in conditions.items())
        result["warnings"].append(f"The samples were drawn with {told}: figures of others differ.")
    part = "all of it, no part was held out" if reference is given else "held-out part"
    result = {
        "data": f"{given.name} ({part})",
        "n": n,
        **result,
        "weights": weights,
        "seconds": time.perf_counter() - started,
    }
    run.write_json("metrics.json", result)
    return result


def check_conditions(run: Run, conditions: Mapping[str, Any]) -> None:
    """Raises UserError for what does not steer all samples of a run alike."""
    cls = model_of(run)
    for name in conditions:
        if name in cls.conditions and name not in steering(cls):
            raise UserError(f"evaluate measures what '{cls.name}' makes by itself, of all classes: leave {name} out.")


def steering(cls: type[Model]) -> tuple[str, ...]:
    """The conditions of a model that say how and not what it makes from nothing: numbers that figures may depend on."""
    if cls.modality not in ("image", "video") or cls.needs:
        return ()
    return tuple(name for name in cls.conditions if name not in CHOOSING)


def _measured_pictures(asked: Asked) -> tuple[dict[str, Any], int]:
    """Sample, look, compare, and how many samples; and the pairs of samples and training pictures where there are such."""
    run, own, reference, metrics, n, seed, *_ = asked
    eye, metrics = asked.eye(), chosen(metrics)
    check_shape(run, reference)
    model, n = generate.load(run), n or MOST
    if model.needs:
        n = min(n, len(reference))  # a sample of each source
    rows, truth = some_rows(len(reference), n, seed), reference.labels()
    given = labels_to_ask(model, reference, rows, n, seed) | generate.checked(model, asked.conditions)
    if model.needs:
        given["source"] = torch.cat([*images(reference, rows, "source")])
    fake = torch.as_tensor(generate.draw(model, n, seed=seed, **given))
    if not fake.isfinite().all():
        raise UserError(f"The samples of '{run.folder}' are not numbers (NaN): fit again, with a lower --lr.")
    real, made = look(eye, images(reference, rows)), look(eye, fake)
    train, train_rows = None, rows
    if own is not None and own.fingerprint != reference.fingerprint:
        train_rows = some_rows(len(own), TRAIN_LOOKED_AT.get(eye.name, n), seed)
        train = look(eye, images(own, train_rows))
    result = evaluate_samples(real, made, eye=eye, metrics=metrics, train=train, labels=given.get("label"), seed=seed)
    if "classes" in result and truth is not None and real.logits is not None:
        right = real.logits.argmax(1) == truth[rows]
        result["classes"]["judge_accuracy"] = float(right.double().mean())  # on the real pictures: how far to trust it
    if own is not None:
        mine, theirs = nearest_pairs(made.features, (train or real).features)
        save_pairs(run, own.batch(train_rows[theirs.numpy()])["image"], fake[mine], columns=len(mine) // 2)
    return result, n


def check_shape(run: Run, reference: Dataset) -> None:
    """Raises UserError for data whose items are of another shape than the run's."""
    ours, theirs = (" × ".join(map(str, spec.shape)) for spec in (run.spec, reference.spec))
    if ours != theirs:
        what = {"image": "pictures", "video": "clips"}[run.spec.modality]
        raise UserError(
            f"This run makes {what} of {ours} and '{reference.name}' holds {theirs}: give data of that shape."
        )


def labels_to_ask(model: Model, reference: Dataset, rows: np.ndarray, n: int, seed: int) -> dict[str, Any]:
    """The condition `label` [n], in the proportions of these rows of the reference; nothing where classes are not shared."""
    truth = reference.labels()
    if truth is None or model.spec.classes != reference.spec.classes or not model.takes("label"):
        return {}
    mixed = truth[rows][torch.randperm(len(rows), generator=generator(seed, 1))]
    return {"label": mixed.repeat(math.ceil(n / len(mixed)))[:n]}


def format_result(result: dict[str, Any]) -> str:
    """The figures as lines for a terminal."""
    lines = [f"{result['n']:,} {result.get('counted', 'samples')} against {result['data']}, {result['seconds']:.0f} s"]
    width = max(len(m["name"]) for m in result["metrics"])
    for m in result["metrics"]:
        beside = "".join(f"   {k} {v:.4g}" for k, v in result.get("beside", {}).get(m["name"], {}).items())
        lines.append(f"  {m['name']:<{width}}  {m['value']:>9.4g}   95 %: {m['low']:.4g} to {m['high']:.4g}{beside}")
    if seen := result.get("classes"):
        lines.append(
            f"  classes: entropy {seen['entropy']:.2f} nats, rarest {seen['min_share']:.1%}, "
            f"{seen['confident']:.0%} classified with more than 0.9 confidence"
        )
    return "\n".join([*lines, *(f"note: {w}" for w in result["warnings"])])


def some_rows(total: int, n: int, seed: int) -> np.ndarray:
    """At most n of the numbers below total, drawn without replacement, ascending."""
    return torch.randperm(total, generator=generator(seed, 0))[:n].sort().values.numpy()


def images(data: Dataset, rows: np.ndarray, side: str = "image", size: int = 500) -> Iterable[Tensor]:
    """Batches of the pictures of those numbers, or of their `source` or `video`."""
    return (data.batch(rows[i : i + size])[side] for i in range(0, len(rows), size))


def own_data(run: Run, moved: str | Path | None = None) -> tuple[Dataset | None, str]:
    """The data that the run was trained on, where it was or where it has moved, or why it cannot be opened."""
    about = run.info["data"]
    if not (source := moved or about["source"]):
        return None, "This run was imported, so its training data is not known: give --data."
    try:
        return _opened(run, source, about.get("options", {})), ""
    except UserError as error:
        return None, f"The run's training data could not be opened, so copies were not looked for: {error}"


def open_like(run: Run, data: str | Path, **more: Any) -> Dataset:
    """Other data, read as the run's own was: same size and colours, but with labels of its own, and `more` options."""
    options = {k: v for k, v in run.info["data"].get("options", {}).items() if k not in ("labels", "limit")}
    return _opened(run, data, options | more)


def _opened(run: Run, data: str | Path, options: Mapping[str, Any]) -> Dataset:
    return open_data(data, modality=run.spec.modality, needs=model_of(run).needs, like=run.spec, **options)


def save_pairs(run: Run, above: Tensor, below: Tensor, columns: int, name: str = "nearest.png") -> None:
    """samples/nearest.png, so many pairs a row of a training picture above a sample."""
    from genloom.data.image import preview

    pairs = zip(above.split(columns), below.split(columns), strict=True)
    sheet = preview(torch.cat([side for pair in pairs for side in pair]), columns)
    with atomic(run.folder / "samples" / name) as path:
        sheet.save(path, format="PNG")


def nearest_pairs(fake: Tensor, train: Tensor, count: int = PAIRS) -> tuple[Tensor, Tensor]:
    """Rows of fakes and of their nearest training items by features: the first fakes as they come, then the closest
    pairs among the first thousand."""
    distances, rows = distribution.nearest(fake[:1000], train)
    count = min(count, len(rows))
    mine = torch.cat([torch.arange(count), distances[:, 0].argsort()[:count]])
    return mine, rows[mine, 0]
