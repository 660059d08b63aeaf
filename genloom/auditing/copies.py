"""Memorisation: which samples are nearer to training items than anything is that the model never saw.

A sample is a copy when it is nearer to its nearest training item than every held-out item is to its own, in what one of the
views sees: pixels or features, stretches of sound, spans of text. A sample that is no copy passes for one in a view with
chance 1 in m + 1, of m held-out items, were it drawn as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genloom import generate, measure_sound
from genloom.auditing import Found, Subject
from genloom.auditing.finding import Finding, percent, shrunk, wilson
from genloom.data.audio import AudioSet
from genloom.data.base import Dataset
from genloom.errors import UserError
from genloom.measure import DIGITS, images, save_pairs, some_rows
from genloom.measure_text import training_text
from genloom.metrics.distribution import nearest
from genloom.metrics.features import extractor
from genloom.metrics.text import Repeats
from genloom.metrics.windows import Windows

LENGTH = 200  # tokens of a text that is made
SEARCHED = {"digits": 60_000}  # training items that features are compared with; slower extractors see fewer
SLOWER = 2_000
PAIRS = 16  # in the gallery
PIXELS = 60_000  # training items whose pixels are compared
SAME = 1e-4  # of the range: items nearer than this, pixel for pixel, are one item
BATCH = 16
NEVER = {"image": "pictures", "video": "clips", "audio": "windows", "text": "pieces of text"}
SPANS = 256  # held-out texts whose longest spans are looked for


class View(NamedTuple):
    """How far each sample [n] is from its nearest training item, which that is [n], and how far held-out ones are [m]."""

    name: str
    made: Tensor
    rows: Tensor
    held: Tensor

    def copies(self) -> Tensor:
        """[n] bool."""
        return self.made < self.held.min()


def look(subject: Subject, found: Found) -> None:
    """Adds what is memorised to the findings."""
    if subject.holdout is None:
        found.cannot.append(
            "Whether samples are copies cannot be concluded: near is only near beside items that the run never saw. Give "
            "--holdout."
        )
        return
    kind = subject.run.spec.modality
    {"image": _pictures, "video": _films, "text": _texts, "audio": _sounds}[kind](subject, subject.holdout, found)


def concluded(
    subject: Subject, copies: Tensor, method: str, what: str, than: str, held: int, views: int = 1
) -> Finding:
    """The finding on so many samples, of which `copies` [n] are, seen in so many views: as many pass by chance as that allows."""
    count, n = int(copies.sum()), len(copies)
    low, high = wilson(count, n)
    limit = max(subject.max_copies, views / (held + 1))
    flagged = low > limit
    kind = subject.run.spec.modality
    said = f"{percent(count / n)} of {n:,} {what} ({percent(low)} to {percent(high)}) {than} any of {held:,} {NEVER[kind]} that the run never saw"
    judged = "it copies what it was trained on." if flagged else "no more than may happen by chance, or is allowed."
    return Finding("copies", method, n, count / n, low, high, limit, flagged, f"{said}: {judged}")


# ── pictures and films ───────────────────────────────────────────────────────────────────────────────────────────
def _pictures(subject: Subject, holdout: Dataset, found: Found) -> None:
    made, train, seed = subject.made, subject.data, subject.seed
    held_rows = some_rows(len(holdout), max(subject.n, 1_000), seed)
    rows = some_rows(len(train), PIXELS, seed)
    pixels = _view("pixels", made, holdout, held_rows, train, rows)
    eye = extractor("digits" if train.name in DIGITS else "lite0")
    seen = some_rows(len(train), SEARCHED.get(eye.name, SLOWER), seed)

    def features(batches: Any) -> Tensor:
        return torch.cat([eye.features(x)[0] for x in batches])

    known = features(images(train, seen))
    theirs = nearest(features(images(holdout, _distinct(held_rows, pixels))), known)[0][:, 0]
    near, which = (x[:, 0] for x in nearest(features(made.split(500)), known))
    views = [
        pixels._replace(held=pixels.held[pixels.held > 0]),
        View(eye.name, near, torch.from_numpy(seen)[which], theirs),
    ]
    copies = views[0].copies() | views[1].copies()
    method = (
        f"nearest of {len(rows):,} training pictures in pixels (at most 32 a side) or of {len(seen):,} in the features of "
        f"{eye.name}, against the nearest of held-out ones, exact duplicates of training pictures left out"
    )
    held = len(views[1].held)
    found.findings.append(
        concluded(
            subject,
            copies,
            method,
            "samples",
            "are nearer to the training data in pixels or features than",
            held,
            views=2,
        )
    )
    _gallery(subject, made, views)
    _duplicates(found, pixels, len(held_rows))


def _view(name: str, made: Tensor, holdout: Dataset, held: np.ndarray, train: Dataset, rows: np.ndarray) -> View:
    """By pixels. A held-out picture that is a training picture, pixel for pixel, is 0 away."""
    known = torch.cat([shrunk(x) for x in images(train, rows)])
    same = SAME * known.shape[1] ** 0.5
    theirs = nearest(torch.cat([shrunk(x) for x in images(holdout, held)]), known)[0][:, 0]
    near, which = (x[:, 0] for x in nearest(shrunk(made), known))
    return View(name, near, torch.from_numpy(rows)[which], torch.where(theirs < same, 0.0, theirs))


def _distinct(rows: np.ndarray, pixels: View) -> np.ndarray:
    kept: np.ndarray = rows[(pixels.held > 0).numpy()]
    if not len(kept):
        raise UserError("Every held-out picture is a training picture too: give --holdout others.")
    return kept


def _duplicates(found: Found, pixels: View, n: int) -> None:
    if count := int((pixels.held == 0).sum()):
        found.cannot.append(
            f"{count:,} of {n:,} held-out pictures are training pictures too, and were left out: a part that was held out "
            "should share none."
        )


def _gallery(subject: Subject, made: Tensor, views: list[View]) -> None:
    """samples/copies.png: the samples that are nearest for what held-out ones are, below their training pictures."""
    apart = torch.stack([v.made / v.held.min().clamp(min=1e-9) for v in views])  # [views, n]
    least, view = apart.min(0)
    worst = least.argsort()[:PAIRS]
    rows = torch.stack([v.rows for v in views])[view[worst], worst]
    key = subject.run.spec.modality
    above = subject.data.batch(rows.numpy())[key]
    below = made[worst]
    if key == "video":
        above, below = (x[:, :, x.shape[2] // 2] for x in (above, below))
    save_pairs(subject.run, above, below, columns=8, name="copies.png")


def _films(subject: Subject, holdout: Dataset, found: Found) -> None:
    """Clips, by the pixels of frames evenly spaced in time."""
    seed = subject.seed
    if subject.model.needs:
        found.cannot.append("Films made from films resemble their sources' targets by intent: copies are not counted.")
        return
    held, rows = (some_rows(len(d), 1_000, seed) for d in (holdout, subject.data))
    made = subject.made
    known = torch.cat([_frames(x) for x in _clips(subject.data, rows)])
    theirs = nearest(torch.cat([_frames(x) for x in _clips(holdout, held)]), known)[0][:, 0]
    near, which = (x[:, 0] for x in nearest(_frames(made), known))
    view = View("frames", near, torch.from_numpy(rows)[which], theirs)
    method = f"nearest of {len(rows):,} training clips in the pixels of four frames (at most 32 a side), against held-out ones"
    found.findings.append(
        concluded(subject, view.copies(), method, "clips", "are nearer to the training data in pixels than", len(held))
    )
    _gallery(subject, made, [view])


def _clips(data: Dataset, rows: np.ndarray) -> Iterator[Tensor]:
    return (data.batch(rows[i : i + BATCH])["video"] for i in range(0, len(rows), BATCH))


def _frames(clips: Tensor) -> Tensor:
    """Clips [B, C, T, H, W] as rows [B, d]: four frames of each, small."""
    times = torch.linspace(0, clips.shape[2] - 1, 4).round().long()
    frames = clips[:, :, times].transpose(1, 2)
    return shrunk(frames.flatten(0, 1), 24).view(len(clips), -1)


# ── sound ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _sounds(subject: Subject, holdout: Dataset, found: Found) -> None:
    """Windows of 1.6 s, against every stretch of the training sound."""
    model, train = subject.model, subject.data
    if not isinstance(holdout, AudioSet) or not isinstance(train, AudioSet) or "source" in model.conditions:
        found.cannot.append("Sound that is made again from a source is like it by intent: copies are not counted.")
        return
    windows = Windows.at(int(model.spec.extra["rate"]), model.spec.shape[1])
    clips = measure_sound.made(model, train, subject.n, subject.seed)
    memory = measure_sound.remembered(windows, train)
    made, held = torch.cat([windows.cut(c) for c in clips]), measure_sound.some(holdout, windows, 1_000)
    view = View("stretches", memory.nearest(windows, made)[0], torch.zeros(len(made)), memory.nearest(windows, held)[0])
    method = f"windows of {windows.seconds:.2g} s, log mel, against every stretch of the training sound"
    found.findings.append(
        concluded(
            subject,
            view.copies(),
            method,
            "windows",
            "are nearer to the training data in their spectra than",
            len(held),
        )
    )


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def _texts(subject: Subject, holdout: Dataset, found: Found) -> None:
    """The longest span of each sample that stands word for word in the training text, beside those of held-out text."""
    model: Any = subject.model
    texts: list[str] = generate.draw(model, subject.n, seed=subject.seed, length=LENGTH)  # type: ignore[assignment]
    search = Repeats(training_text(subject.data, model))
    held = pieces(holdout, model, max(1, round(float(np.mean([len(t.encode()) for t in texts])))))
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
            "repeat more of the training text in one piece than",
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
