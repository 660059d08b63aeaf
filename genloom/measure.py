"""Run + data -> metrics.json: how good, how varied, and how much copied the samples are.

A figure is named by its protocol, `fd-digits@10k`: metric, feature extractor, number of samples. Each carries the
extractor's hash, both counts, and a 95 % bootstrap interval.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom import generate
from genloom.core import generator
from genloom.data import open_data
from genloom.data.base import Dataset
from genloom.errors import UserError, unknown
from genloom.metrics import distribution
from genloom.metrics.distribution import Estimate
from genloom.metrics.features import Extractor, extractor
from genloom.plugins import model_of
from genloom.run import Run, atomic

METRICS = ("fd", "kid", "precision", "recall", "density", "coverage", "is", "nearest", "labels")
DIGITS = ("mnist", "digits")  # the data that the shipped classifier judges
FEWEST = 10  # samples: below, a neighbourhood of five is everything
SMALL = 2000  # below, the bias of a Fréchet distance (about d / N) hides most differences
TRAIN_LOOKED_AT = {"digits": 60_000}  # training pictures searched for copies; with slower extractors, n of them
PAIRS = 10


@dataclass(frozen=True)
class Features:
    """What an extractor saw: features [N, d], logits [N, classes] or None."""

    features: Tensor
    logits: Tensor | None

    def __len__(self) -> int:
        return len(self.features)


def look(eye: Extractor, images: Tensor | Iterable[Tensor]) -> Features:
    """Features of images [N, C, H, W] in [-1, 1], or of batches of them that need not fit into memory at once."""
    parts = [eye.features(x) for x in ([images] if isinstance(images, Tensor) else images)]
    logits = [part[1] for part in parts if part[1] is not None]
    return Features(torch.cat([part[0] for part in parts]), torch.cat(logits) if logits else None)


# ── the figures, from tensors ────────────────────────────────────────────────────────────────────────────────────


def evaluate_samples(
    real: Tensor | Iterable[Tensor],
    fake: Tensor | Iterable[Tensor],
    *,
    eye: Extractor,
    metrics: Sequence[str] | None = None,
    train: Tensor | Iterable[Tensor] | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The `metrics`, `classes` and `warnings` of metrics.json for images (or batches of them) in [-1, 1].

    `train`: the pictures that the model was trained on, if they are not `real`: without them `nearest` compares with
    `real`. `labels` [N]: the class asked of each fake. Raises UserError for an unknown metric or too few images.
    """
    seen = None if train is None else look(eye, train)
    return figures(look(eye, real), look(eye, fake), eye, metrics=metrics, train=seen, labels=labels, seed=seed)


def figures(
    real: Features,
    fake: Features,
    eye: Extractor,
    *,
    metrics: Sequence[str] | None = None,
    train: Features | None = None,
    labels: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The same from features."""
    wanted = chosen(metrics)
    fewer = min(len(real), len(fake))
    if fewer < FEWEST:
        raise UserError(
            f"{len(fake)} samples and {len(real)} real items are too few to measure: give {FEWEST} or more."
        )
    found = _estimates(real, fake, wanted, train, labels if eye.name == "digits" else None)
    warnings = []
    if fewer < max(SMALL, eye.dim):
        found = dict(sorted(found.items(), key=lambda item: item[0] != "kid"))
        warnings.append(
            f"{len(fake):,} samples against {len(real):,} real ones are few: the Fréchet distance is biased upwards by "
            f"about its {eye.dim} dimensions over that number, so trust the kernel distance (KID) instead."
        )
    rows = [_row(name, estimate, eye, len(fake), len(real), seed) for name, estimate in found.items()]
    block = {"classes": classes_seen(fake.logits)} if eye.name == "digits" and fake.logits is not None else {}
    return {"metrics": rows, **block, "warnings": warnings}


def chosen(metrics: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics asked for, all by default. Raises UserError for one that does not exist."""
    for name in metrics or ():
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    return tuple(metrics or METRICS)


def _estimates(
    real: Features, fake: Features, wanted: Sequence[str], train: Features | None, labels: Tensor | None
) -> dict[str, Estimate]:
    x, y, found = real.features, fake.features, {}
    if "fd" in wanted:
        found["fd"] = distribution.frechet_distance(x, y)
    if "kid" in wanted:
        found["kid"] = distribution.kernel_distance(x, y)
    if any(name in wanted for name in distribution.Neighbourhoods._fields):
        around = distribution.neighbourhoods(x, y)._asdict()
        found |= {name: estimate for name, estimate in around.items() if name in wanted}
    if "is" in wanted and fake.logits is not None:
        found["is"] = distribution.inception_score(fake.logits.double().softmax(1))
    if "nearest" in wanted:
        found["nearest"] = novelty(x, y, None if train is None else train.features)
    if "labels" in wanted and labels is not None and fake.logits is not None:
        right = fake.logits.argmax(1) == labels.cpu()
        found["labels"] = distribution.mean_estimate(right, "share of samples that are of the class asked for")
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


def _row(name: str, estimate: Estimate, eye: Extractor, n: int, n_real: int, seed: int) -> dict[str, Any]:
    low, high = estimate.interval(seed=seed)
    count = f"{n // 1000}k" if n % 1000 == 0 else str(n)
    return {
        "name": f"{name}-{eye.name}@{count}" if name in ("fd", "kid", "is") else name,
        "value": estimate.value,
        "low": low,
        "high": high,
        "n": n,
        "n_real": n_real,
        "extractor": eye.name,
        "sha256": eye.sha256,
        "note": estimate.note,
    }


def classes_seen(logits: Tensor) -> dict[str, Any]:
    """What a classifier sees in the samples: counts, the rarest class's share, entropy in nats, share it is sure of."""
    confidence, found = logits.softmax(1).max(1)
    counts = torch.bincount(found, minlength=logits.shape[1])
    shares = counts.double() / len(logits)
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
    n: int = 10_000,
    extractor: str | Extractor | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure n samples of a run against data (by default the run's own): writes metrics.json and samples/nearest.png.

    The reference is the data's held-out part, or all of it where there is none. Labels asked of a conditional model
    follow the reference's proportions. Raises UserError for what the caller can mend.
    """
    started = time.perf_counter()
    chosen(metrics)
    if n < FEWEST:
        raise UserError(f"-n {n} is too few to measure: give {FEWEST} or more, 10000 for figures to compare.")
    if run.spec.modality != "image":
        raise UserError(f"evaluate measures pictures so far, and this run makes {run.spec.modality}.")
    own, lost = _own_data(run)
    given = _open_like(run, data) if isinstance(data, str | Path) else data or own
    if given is None:
        raise UserError(lost)
    held_out = given.held_out()
    _check_shape(run, held_out or given)
    result = _measured(run, own, held_out or given, _eye(extractor, given.name), metrics, n, seed)
    if own is None:
        result["warnings"].append(lost)
    part = "held-out part" if held_out else "all of it, no part was held out"
    about = {"data": f"{given.name} ({part})", "n": n}
    result = {**about, **result, "seconds": time.perf_counter() - started}
    run.write_json("metrics.json", result)
    return result


def _measured(
    run: Run, own: Dataset | None, reference: Dataset, eye: Extractor, metrics: Sequence[str] | None, n: int, seed: int
) -> dict[str, Any]:
    """Sample, look, compare; and the pairs of samples and training pictures where there are training pictures."""
    rows = some_rows(len(reference), n, seed)
    labels = _labels(run, reference, rows, n, seed)
    fake = _samples(run, n, seed, labels, reference, rows)
    real, made = look(eye, images(reference, rows)), look(eye, fake)
    train, train_rows = None, rows
    if own is not None and own.fingerprint != reference.fingerprint:
        train_rows = some_rows(len(own), TRAIN_LOOKED_AT.get(eye.name, n), seed)
        train = look(eye, images(own, train_rows))
    result = figures(real, made, eye, metrics=metrics, train=train, labels=labels, seed=seed)
    truth = reference.labels()
    if "classes" in result and truth is not None and real.logits is not None:
        right = real.logits.argmax(1) == truth[rows]
        result["classes"]["judge_accuracy"] = float(right.double().mean())  # on the real pictures: how far to trust it
    if own is not None:
        _save_pairs(run, own, train_rows, fake, made.features, (train or real).features)
    return result


def format_result(result: dict[str, Any]) -> str:
    """The figures as lines for a terminal."""
    lines = [f"{result['n']:,} samples against {result['data']}, {result['seconds']:.0f} s"]
    width = max(len(m["name"]) for m in result["metrics"])
    for m in result["metrics"]:
        lines.append(f"  {m['name']:<{width}}  {m['value']:>9.4g}   95 %: {m['low']:.4g} to {m['high']:.4g}")
    if seen := result.get("classes"):
        lines.append(
            f"  classes: entropy {seen['entropy']:.2f} nats, rarest {seen['min_share']:.1%}, "
            f"{seen['confident']:.0%} classified with more than 0.9 confidence"
        )
    return "\n".join([*lines, *(f"note: {w}" for w in result["warnings"])])


def some_rows(total: int, n: int, seed: int) -> np.ndarray:
    """At most n of the numbers below total, drawn without replacement, ascending."""
    return torch.randperm(total, generator=generator(seed, 0))[:n].sort().values.numpy()


def images(data: Dataset, rows: np.ndarray, size: int = 500) -> Iterable[Tensor]:
    """Batches of the pictures of those numbers."""
    return (data.batch(rows[i : i + size])["image"] for i in range(0, len(rows), size))


def default_extractor(data: str) -> Extractor:
    """`digits` for handwritten digits, else `lite0`. Raises UserError when its weights are not installed."""
    return extractor("digits" if data in DIGITS else "lite0")


def _eye(asked: str | Extractor | None, data: str) -> Extractor:
    if asked is None:
        return default_extractor(data)
    return extractor(asked) if isinstance(asked, str) else asked


def _own_data(run: Run) -> tuple[Dataset | None, str]:
    """The data that the run was trained on, or why it cannot be opened."""
    about = run.info["data"]
    try:
        return open_data(about["source"], modality="image", needs=_needs(run), **about.get("options", {})), ""
    except UserError as error:
        return None, f"The run's training data could not be opened, so copies were not looked for: {error}"


def _open_like(run: Run, data: str | Path) -> Dataset:
    """Other data, read as the run's own was: same size and colours, but with labels of its own."""
    options = {k: v for k, v in run.info["data"].get("options", {}).items() if k not in ("labels", "limit")}
    return open_data(data, modality="image", needs=_needs(run), **options)


def _needs(run: Run) -> str:
    return model_of(run).needs


def _check_shape(run: Run, data: Dataset) -> None:
    ours, theirs = (" × ".join(map(str, s.shape)) for s in (run.spec, data.spec))
    if ours != theirs:
        raise UserError(f"This run makes pictures of {ours} and '{data.name}' holds {theirs}: give data of that shape.")


def _labels(run: Run, data: Dataset, rows: np.ndarray, n: int, seed: int) -> Tensor | None:
    """[n] classes in the reference's proportions, when it has the run's classes; None leaves them to the model."""
    labels = data.labels()
    if labels is None or run.spec.classes != data.spec.classes or "label" not in generate.load(run).conditions:
        return None
    mixed = labels[rows][torch.randperm(len(rows), generator=generator(seed, 1))]
    return mixed.repeat(math.ceil(n / len(mixed)))[:n]


def _samples(run: Run, n: int, seed: int, labels: Tensor | None, data: Dataset, rows: np.ndarray) -> Tensor:
    """n samples; of a model that makes pictures from pictures, those of the reference's sources."""
    source = None
    if _needs(run):
        source = torch.cat([data.batch(rows[i : i + 500])["source"] for i in range(0, len(rows), 500)])
    fake = torch.as_tensor(generate.samples(run, n, seed=seed, label=labels, source=source))
    if not fake.isfinite().all():
        raise UserError(f"The samples of '{run.folder}' are not numbers (NaN): fit again, with a lower --lr.")
    return fake


def _save_pairs(run: Run, own: Dataset, rows: np.ndarray, fake: Tensor, made: Tensor, train: Tensor) -> None:
    """samples/nearest.png, pairs of a training picture above a sample: the first samples, then the closest pairs."""
    from genloom.data.image import preview

    mine, theirs = nearest_pairs(made, train)
    above, below = own.batch(rows[theirs.numpy()])["image"], fake[mine]
    half = len(mine) // 2
    sheet = preview(torch.cat([above[:half], below[:half], above[half:], below[half:]]), columns=half)
    with atomic(run.folder / "samples" / "nearest.png") as path:
        sheet.save(path, format="PNG")


def nearest_pairs(fake: Tensor, train: Tensor, count: int = PAIRS) -> tuple[Tensor, Tensor]:
    """Rows of fakes and of their nearest training items by features: the first fakes as they come, then the closest
    pairs among the first thousand."""
    distances, rows = distribution.nearest(fake[:1000], train)
    count = min(count, len(rows))
    mine = torch.cat([torch.arange(count), distances[:, 0].argsort()[:count]])
    return mine, rows[mine, 0]
