"""Memorisation: which samples are nearer to training items than anything is that the model never saw.

A sample is a copy when it is nearer to its nearest training item than every held-out item is to its own, in what one of the
views sees: pixels or features, stretches of sound, spans of text. A sample that is no copy passes for one in a view with
chance 1 in m + 1, of m held-out items, were it drawn as they were. Where nothing was held out, pictures are compared with
training pictures among themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom import generate, measure_sound
from genloom.auditing import HELD, Found, Subject, rows
from genloom.auditing.finding import Finding, percent, shrunk
from genloom.auditing.near import Space, View
from genloom.auditing.sides import Renamed
from genloom.auditing.twins import Texts, pixels
from genloom.data.audio import AudioSet
from genloom.data.base import Dataset
from genloom.errors import UserError
from genloom.measure import DIGITS, images, save_pairs, some_rows
from genloom.measure_text import training_text
from genloom.metrics.chances import wilson
from genloom.metrics.features import extractor
from genloom.metrics.text import Repeats
from genloom.metrics.windows import Windows

LENGTH = 200  # tokens of a text that is made
SILENT = 1e-3  # of full scale
QUIET = 0.01  # of the training windows' median power, 20 dB below it: a pause
SEARCHED = {"digits": 60_000}  # training items that features are compared with; slower extractors see fewer
SLOWER = 2_000
BESIDE = {"digits": 5_000}  # held-out ones: of more, fewer samples pass for copies by chance
PAIRS = 16  # in the gallery
BATCH = 16
RARE = 0.025  # of chance, at which copies are no accident
SPANS = 256  # held-out texts whose longest spans are looked for


def look(subject: Subject, found: Found) -> None:
    """Adds what is memorised to the findings."""
    kind = subject.run.spec.modality
    if kind == "table":
        return rows.look(subject, found)
    if kind in ("image", "video"):
        if subject.holdout is None:
            found.cannot.append(
                "Nothing was held out, so near is what training items are to each other: where they come in series of nearly the "
                "same, copies are missed. Give --holdout."
            )
        return (_pictures if kind == "image" else _films)(subject, found)
    if subject.holdout is None:
        found.cannot.append(
            "Whether samples are copies cannot be concluded: near is only near beside items that the run never saw. Give "
            "--holdout."
        )
        return
    (_texts if kind == "text" else _sounds)(subject, subject.holdout, found)


def concluded(
    subject: Subject, copies: Tensor, method: str, what: str, where: str, held: int, views: int = 1
) -> Finding:
    """The finding on so many samples, of which `copies` [n] are, seen in so many views: flagged where they are more than is
    allowed, and chance alone would hardly make so many."""
    count, n = int(copies.sum()), len(copies)
    low, high = wilson(count, n)
    twice = 1 if subject.holdout else 2  # the least distance of training items among themselves is that of two
    flagged = low > subject.max_copies and views * twice * by_chance(count, n, held) <= RARE
    others = "items that the run never saw" if subject.holdout else "training items is to the rest"
    nearer = where if subject.run.spec.modality == "text" else f"are nearer to the training data {where}"
    said = f"{percent(count / n)} of {n:,} {what} ({percent(low)} to {percent(high)}) {nearer} than any of {held:,} {others}"
    judged = "it copies what it was trained on." if flagged else "no more than may happen by chance, or is allowed."
    return Finding("copies", method, n, count / n, low, high, subject.max_copies, flagged, f"{said}: {judged}")


def by_chance(count: int, n: int, held: int) -> float:
    """The chance that at least so many of n items are nearer than the nearest of others from where they came, of which so many
    were held out: that the least distances of all are theirs (negative hypergeometric)."""
    return math.prod((n - i) / (n + held - i) for i in range(count))


# ── pictures and films ───────────────────────────────────────────────────────────────────────────────────────────
def _pictures(subject: Subject, found: Found) -> None:
    made, train, seed = subject.made, subject.data, subject.seed
    if subject.model.needs and subject.holdout is None:
        found.cannot.append(
            "Pictures made from training sources resemble their targets by intent: give --holdout pairs."
        )
        return
    eye = extractor("digits" if train.name in DIGITS else "lite0")
    seen = some_rows(len(train), SEARCHED.get(eye.name, SLOWER), seed)

    def features(batches: Iterable[Tensor]) -> Tensor:
        return torch.cat([eye.features(x)[0] for x in batches])

    by_pixels, by_eye = subject.pixels, Space(eye.name, features(images(train, seen)), seen)
    if subject.holdout is None:
        others = [space.among_themselves(HELD, seed) for space in (by_pixels, by_eye)]
    else:
        kept = subject.held(BESIDE.get(eye.name, max(subject.n, HELD)))
        theirs = features(images(subject.holdout, kept))
        others = [by_pixels.apart(pixels(images(subject.holdout, kept))), by_eye.apart(theirs)]
    views = [
        *by_pixels.views(by_pixels.apart(pixels(made.split(500))), others[0]),
        *by_eye.views(by_eye.apart(features(made.split(500))), others[1]),
    ]
    beside = "held-out ones, exact duplicates left out" if subject.holdout else "training pictures among themselves"
    method = (
        f"nearest of {len(by_pixels.known):,} training pictures in pixels (at most 32 a side) or of {len(seen):,} in the features "
        f"of {eye.name}, by distance or by that over the nearest one's own to its nearest other, against the least of {beside}"
    )
    _conclude(subject, found, views, method, "samples", "in pixels or features")


def _conclude(subject: Subject, found: Found, views: list[View], method: str, what: str, where: str) -> None:
    """The finding, and the worst pairs."""
    if not any(v.limit() for v in views):
        found.cannot.append(
            "Whether samples are copies cannot be concluded: the training data holds one item again and again, and near is only "
            "near beside others. Give --holdout."
        )
        return
    copies = torch.stack([v.copies() for v in views]).any(0)
    found.findings.append(concluded(subject, copies, method, what, where, len(views[0].held), len(views)))
    _gallery(subject, found, views)


def _gallery(subject: Subject, found: Found, views: list[View]) -> None:
    """samples/copies.png: the samples that are nearest for what others are, below their training pictures; and their numbers."""
    apart = torch.stack([v.made / max(v.limit(), 1e-9) for v in views])  # [views, n]
    least, view = apart.min(0)
    worst = least.argsort()[:PAIRS]
    rows = torch.stack([v.rows for v in views])[view[worst], worst]
    key = subject.run.spec.modality
    above = subject.data.batch(rows.numpy())[key]
    below = subject.made[worst]
    if key == "video":
        above, below = (x[:, :, x.shape[2] // 2] for x in (above, below))
    save_pairs(subject.run, above, below, columns=8, name="copies.png")
    told = zip(worst.tolist(), rows.tolist(), least[worst].tolist(), view[worst].tolist(), strict=True)
    found.more["pairs"] = [
        {"sample": sample, "item": item, "view": views[v].name, "distance": round(far, 4)}
        for sample, item, far, v in told
    ]  # the distance over the least of others: below 1 is a copy


def _films(subject: Subject, found: Found) -> None:
    """Clips, by the pixels of frames evenly spaced in time."""
    seed = subject.seed
    if subject.model.needs:
        found.cannot.append("Films made from films resemble their sources' targets by intent: copies are not counted.")
        return
    rows = some_rows(len(subject.data), HELD, seed)
    space = Space("frames", _frames(_clips(subject.data, rows)), rows)
    if subject.holdout is None:
        others = space.among_themselves(HELD, seed)
    else:
        others = space.new(space.apart(_frames(_clips(subject.holdout, subject.held(HELD)))))
    beside = "held-out ones, exact duplicates left out" if subject.holdout else "training clips among themselves"
    method = (
        f"nearest of {len(rows):,} training clips in the pixels of four frames (at most 24 a side), by distance or by that over "
        f"the nearest one's own to its nearest other, against the least of {beside}"
    )
    views = space.views(space.apart(_frames(subject.made.split(BATCH))), others)
    _conclude(subject, found, views, method, "clips", "in pixels")


def _clips(data: Dataset, rows: np.ndarray) -> Iterator[Tensor]:
    return (data.batch(rows[i : i + BATCH])["video"] for i in range(0, len(rows), BATCH))


def _frames(batches: Iterable[Tensor]) -> Tensor:
    """Clips [B, C, T, H, W] as rows [N, d]: four frames of each, small."""

    def small(clips: Tensor) -> Tensor:
        times = torch.linspace(0, clips.shape[2] - 1, 4).round().long()
        return shrunk(clips[:, :, times].transpose(1, 2).flatten(0, 1), 24).view(len(clips), -1)

    return torch.cat([small(x) for x in batches])


# ── sound ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _sounds(subject: Subject, holdout: Dataset, found: Found) -> None:
    """Windows of 1.6 s, against every stretch of the training sound."""
    model: Any = subject.model
    train = subject.data
    holdout = holdout.data if isinstance(holdout, Renamed) else holdout
    again = bool(model.needs) or getattr(model, "makes_again", False)
    if again or not isinstance(holdout, AudioSet) or not isinstance(train, AudioSet):
        found.cannot.append("Sound that is made again from its own data is like it by intent: copies are not counted.")
        return
    windows = Windows.at(int(model.spec.extra["rate"]), model.spec.shape[1])
    clips = measure_sound.made(model, train, subject.n, subject.seed)
    memory = measure_sound.remembered(windows, train)
    quiet = QUIET * float(_power(measure_sound.some(train, windows, 1_000)).median())
    held, made = measure_sound.some(holdout, windows, 1_000), torch.cat([windows.cut(c) for c in clips])
    made, held = _heard(made, quiet), _heard(held, quiet)
    if not len(made) or not len(held):
        found.cannot.append("Whether samples are copies cannot be concluded: they, or what was held out, are silent.")
        return
    view = View("stretches", memory.nearest(windows, made)[0], torch.zeros(len(made)), memory.nearest(windows, held)[0])
    method = (
        f"windows of {windows.seconds:.2g} s that are no pauses, log mel, against every stretch of the training sound"
    )
    found.findings.append(concluded(subject, view.copies(), method, "windows", "in their spectra", len(held)))


def _heard(windows: Tensor, quiet: float) -> Tensor:
    """Of windows [n, N] those that are not silent, and of more than such a power: a pause is like any other, and beside one
    nothing is near."""
    return windows[(windows.abs().amax(1) > SILENT) & (_power(windows) > quiet)]


def _power(windows: Tensor) -> Tensor:
    """[n] mean squares."""
    return windows.square().mean(1)


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _texts(subject: Subject, holdout: Dataset, found: Found) -> None:
    """The longest span of each sample that stands word for word in the training text, beside those of held-out text."""
    model: Any = subject.model
    texts: list[str] = generate.draw(model, subject.n, seed=subject.seed, length=LENGTH)  # type: ignore[assignment]
    search = subject.twins.search if isinstance(subject.twins, Texts) else Repeats(training_text(subject.data, model))
    held = unknown(search, pieces(holdout, model, max(1, round(float(np.mean([len(t.encode()) for t in texts]))))))
    theirs = [search.longest(i, t).length for i, t in enumerate(held)]
    spans = [search.longest(i, t) for i, t in enumerate(texts)]
    most = max(theirs, default=0)
    copies = torch.tensor([s.length > most for s in spans])
    method = (
        f"longest span that stands in the training text, byte for byte; of held-out text the longest has {most} bytes"
    )
    found.findings.append(
        concluded(
            subject,
            copies,
            method,
            f"texts of {LENGTH} tokens",
            "repeat more of the training text in one piece",
            len(held),
        )
    )
    found.more["spans"] = [s._asdict() for s in sorted(spans, key=lambda s: -s.length)[:8] if s.length > most]


def pieces(data: Dataset, model: Any, size: int) -> list[str]:
    """Pieces of about so many bytes of a text, evenly spaced."""
    whole = training_text(data, model)
    starts = np.unique(np.linspace(0, max(0, len(whole) - size), SPANS).round().astype(np.int64))
    starts = starts[:: max(1, -(-len(starts) * size // max(1, len(whole))))]  # none twice
    return [whole[s : s + size].decode("utf-8", "ignore") for s in starts]


def unknown(search: Repeats, held: list[str]) -> list[str]:
    """Of pieces of text in order those that do not stand in the training text, nor beside one that does: half of that may.

    Raises UserError where none is left.
    """
    again = np.array([search.holds(text.encode()) for text in held])
    if again.all():
        raise UserError("What was held out is training text too: give --holdout another.")
    beside = again.copy()
    beside[1:] |= again[:-1]
    beside[:-1] |= again[1:]
    out = again if beside.all() else beside
    return [text for text, left in zip(held, out, strict=True) if not left]
