"""A run that makes sound from nothing + sounds -> metrics.json: how near it is as a whole, and how new.

All sides are as many windows of 1.6 s, and each is compared with the same reference: every other window of the sounds that
were kept out. The windows between are the floor: what real sound gets that was not compared with itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genloom import generate
from genloom.core import generator
from genloom.data.audio import AudioSet
from genloom.data.base import Dataset
from genloom.data.files import safe_name
from genloom.data.sound import write
from genloom.errors import UserError
from genloom.measure import chosen, left_out, row
from genloom.metrics.distribution import Estimate, frechet_distance, mean_estimate, nearest, ratio_of_medians
from genloom.metrics.speakers import ear, fad
from genloom.metrics.windows import Windows, loudness, noise_like, statistics
from genloom.run import HEARD_IN, Run

MOST, ENOUGH, FEWEST = 500, 256, 10  # windows of a side: at most, as many as the ear has dimensions, and for a whole
BATCH = 32  # clips that are made at once: a transformer keeps all that each has heard
MEMORY = 100_000  # windows of the training sound that are searched: two hours, each beginning at a step
HEARD = 2  # clips to hear: so many as they come, and as many of those nearest to training sound
NOTES = {
    "nats": "at each code of sound that was kept out, after those before it",
    "fad": "Fréchet distance under an ear for voices",
    "spectra": "Fréchet distance of each band's mean and deviation in time, log mel",
    "loudness": "mean power, dB of full scale",
    "nearest": "median distance to the nearest stretch of training sound, over that of sound kept out; 1 is new",
}


class Found(NamedTuple):
    """A figure with its full name, the same of other sides, and what else its row holds."""

    name: str
    estimate: Estimate
    beside: dict[str, float]
    judge: dict[str, Any] = {}


@dataclass
class Sides:
    """What is compared: the reference's windows [n, N], as many of each side, and the clips [N] that were made."""

    windows: Windows
    reference: Tensor
    sides: dict[str, Tensor]
    clips: list[Tensor]

    def seen_by(self, look: Callable[[Tensor], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Features [n, d] of the reference and of each side. Raises UserError where there are too few for a whole."""
        if len(self.reference) < FEWEST:
            raise UserError(
                f"it needs {2 * FEWEST} windows of {self.windows.seconds:.2g} s that were kept out of training, and there "
                f"are {2 * len(self.reference)}: give --data with more sound."
            )
        return look(self.reference), {side: look(w) for side, w in self.sides.items()}


def measured(
    run: Run, own: Dataset | None, reference: Dataset, metrics: Sequence[str] | None, n: int, seed: int
) -> tuple[dict[str, Any], int]:
    """Each measure of at most n windows, and how many there were; writes clips to hear into samples/heard.

    Raises UserError for an unknown measure, for other data than sound, and for a measure asked for that cannot be had.
    """
    wanted = chosen(metrics, NOTES, "metric of sound")
    if not isinstance(reference, AudioSet):
        raise UserError("Sound is measured beside clips of sound: give a folder of them as --data.")
    model: Any = generate.load(run)
    same = isinstance(own, AudioSet) and own.fingerprint == reference.fingerprint and own.spans == reference.spans
    seen = own if isinstance(own, AudioSet) and not same else None
    sides = gathered(model, seen, reference, min(n, MOST), seed)
    count = len(sides.reference)
    ways: dict[str, Callable[[], Found]] = {
        "nats": lambda: surprise(model, seen, reference),
        "fad": lambda: voices(sides),
        "spectra": lambda: spectra(sides),
        "loudness": lambda: levels(sides),
        "nearest": lambda: novelty(run, sides, seen),
    }
    about = f"windows of {sides.windows.seconds:.2g} s"
    result: dict[str, Any] = {"counted": about, "metrics": [], "warnings": [], "beside": {}}
    for name in wanted:
        with left_out(name, result["warnings"], asked=bool(metrics)):
            found = ways[name]()
            result["metrics"].append(row(found.name, found.estimate, count, seed) | found.judge)
            result["beside"][found.name] = found.beside
    if "nearest" not in result["beside"]:
        for place, clip in enumerate(sides.clips[:HEARD]):
            keep_heard(run, f"{place}-sample {place}", {"made": clip[None]})
    if FEWEST <= count < ENOUGH:
        result["warnings"].append(
            f"{count} {about} are few: Fréchet distances are biased upwards, so compare them with those beside, which are of as "
            "many; --data with more sound, or --data.held-out, tells more."
        )
    return result, count


# ── what is compared ─────────────────────────────────────────────────────────────────────────────────────────────
def gathered(model: Any, seen: AudioSet | None, reference: AudioSet, most: int, seed: int) -> Sides:
    """Windows of the reference, of what lies between, of what the model makes, of its codec, of training, of noise.

    Classes are asked for in the reference's proportions. Raises UserError where there is not one window a side.
    """
    windows = Windows.at(int(model.spec.extra["rate"]), model.spec.shape[1])
    real = some(reference, windows, 2 * most)
    half = len(real) // 2
    if not half:
        raise UserError(
            f"'{reference.name}' is shorter than two windows of {windows.seconds:.2g} s: give more as --data."
        )
    against, between = real[0::2][:half], real[1::2]
    clips = made(model, reference, -(-half // max(1, model.spec.shape[1] // windows.samples)), seed)
    sides = {"made": torch.cat([windows.cut(c) for c in clips])[:half], "recordings": between}
    if hasattr(model, "vocode"):
        sides["codec"] = through(model, between)
    if seen is not None:
        sides["training"] = some(seen, windows, half)
    sides["noise"] = noise_like(against, half, seed)
    return Sides(windows, against, sides, clips)


def some(data: AudioSet, windows: Windows, most: int) -> Tensor:
    """At most so many windows [n, N] of the clips, evenly spaced over all."""
    clips = [clip for _, clip in data.clips()]
    ends = np.cumsum([max(1, len(c) // windows.samples) for c in clips])
    chosen = np.unique(np.linspace(0, ends[-1] - 1, min(most, int(ends[-1]))).round().astype(np.int64))
    files = np.searchsorted(ends, chosen, side="right")
    return torch.stack([windows.cut(whole(clips[f]))[i - ends[f]] for f, i in zip(files, chosen, strict=True)])


def whole(clip: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(clip, np.float32))


def made(model: Any, reference: AudioSet, n: int, seed: int) -> list[Tensor]:
    """n clips [N] of the model. Raises UserError where they are not numbers."""
    given, truth = dict[str, Any](), reference.labels()
    if truth is not None and model.spec.classes == reference.spec.classes and model.takes("label"):
        given["label"] = truth[torch.randint(len(truth), (n,), generator=generator(seed, 1))]
    clips = [clip[0] for clip in generate.draw(model, n, seed=seed, batch_size=BATCH, **given)]
    if not all(clip.isfinite().all() for clip in clips):
        raise UserError("The samples of this run are not numbers (NaN): fit again, with a lower --lr.")
    return clips


@torch.inference_mode()
def through(model: Any, windows: Tensor) -> Tensor:
    """Windows [n, N] as the model's own codec gives them back: no more can be had of what writes its codes."""
    size = windows.shape[1]
    back = torch.cat([model.vocode(model.mel(w.to(model.device)))[:, 0].cpu() for w in windows.split(BATCH)])
    return F.pad(back[:, :size], (0, max(0, size - back.shape[1])))


# ── the figures ──────────────────────────────────────────────────────────────────────────────────────────────────
def voices(sides: Sides) -> Found:
    """The Fréchet audio distance under the ear that tells voices apart, which hears a window at a time."""
    rate, listener = sides.windows.mel.rate, ear()
    real, heard = sides.seen_by(lambda w: torch.cat([listener.features(x, rate) for x in w.split(BATCH)]))
    name, estimate = fad(real, heard.pop("made"))
    judge = {"extractor": listener.name, "sha256": listener.sha256}
    return Found(name, replace(estimate, note=NOTES["fad"]), far(real, heard), judge)


def spectra(sides: Sides) -> Found:
    real, seen = sides.seen_by(lambda w: statistics(sides.windows.pictures(w)))
    estimate = frechet_distance(real, seen.pop("made"))
    return Found(f"spectra@{len(real)}", replace(estimate, note=NOTES["spectra"]), far(real, seen))


def far(real: Tensor, sides: Mapping[str, Tensor]) -> dict[str, float]:
    return {side: frechet_distance(real, x).value for side, x in sides.items()}


def levels(sides: Sides) -> Found:
    found = {side: loudness(w) for side, w in sides.sides.items()}
    made = mean_estimate(found.pop("made"), NOTES["loudness"])
    return Found("loudness", made, {side: float(x.mean()) for side, x in found.items()})


def novelty(run: Run, sides: Sides, seen: AudioSet | None) -> Found:
    """How near windows come to training sound. Writes the nearest stretches into samples/heard, beside what was made.

    Raises UserError where the training sound is not known, or nothing was kept out of it.
    """
    if seen is None:
        raise UserError("it needs the training sound, and other sound that was kept out of it: give --data.")
    windows, memory = sides.windows, remembered(sides.windows, seen)
    unseen = memory.nearest(windows, torch.cat([sides.reference, sides.sides["recordings"]]))[0]
    distances, places = memory.nearest(windows, sides.sides["made"])
    keep_nearest(run, sides, distances, places, memory)
    beside = {
        side: ratio_of_medians(memory.nearest(windows, w)[0], unseen).value
        for side, w in sides.sides.items()
        if side != "made"
    }
    return Found("nearest", ratio_of_medians(distances, unseen, NOTES["nearest"]), beside)


class Memory(NamedTuple):
    """The training sound as `rows` of pictures: `ends` [files], those of each file, one each `step` samples."""

    data: AudioSet
    rows: Tensor
    ends: np.ndarray
    step: int

    def nearest(self, windows: Windows, sound: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
        """How far windows [n, N] are from it [n], and of each the nearest row, and how late in the window that is."""
        distances, rows = nearest(windows.parts(sound).flatten(0, 1).flatten(1), self.rows)
        least, shifts = distances.view(-1, windows.shifts).min(1)
        found = rows.view(-1, windows.shifts).gather(1, shifts[:, None])[:, 0]
        return least, list(zip(found.tolist(), (shifts * windows.mel.hop).tolist(), strict=True))

    def stretch(self, row: int, before: int, length: int) -> tuple[str, Tensor]:
        """The file of a row, and `length` samples of it [1, N], so many `before` the row's own on; fewer at its end."""
        file = int(np.searchsorted(self.ends, row, side="right"))
        name, clip = [*self.data.clips()][file]
        start = (row - int(self.ends[file - 1] if file else 0)) * self.step - before
        start = max(0, min(start, len(clip) - length))
        return name, whole(clip[start : start + length])[None]


def remembered(windows: Windows, seen: AudioSet) -> Memory:
    """Every stretch of the training sound, as many as fit."""
    clips = [clip for _, clip in seen.clips()]
    stride = -(-sum(len(c) for c in clips) // (windows.step * MEMORY))
    pictures = [windows.every(whole(c))[::stride].flatten(1) for c in clips]
    return Memory(seen, torch.cat(pictures), np.cumsum([len(p) for p in pictures]), stride * windows.step)


def keep_nearest(run: Run, sides: Sides, distances: Tensor, places: Sequence[tuple[int, int]], memory: Memory) -> None:
    """samples/heard: the first clips and those nearest to training sound, each with the stretch it is nearest to."""
    windows = sides.windows
    cut = [(c, k * windows.samples) for c, clip in enumerate(sides.clips) for k in range(len(windows.cut(clip)))]
    best: dict[int, int] = {}  # the nearest window of each clip, nearest clips first
    for i in distances.argsort().tolist():
        best.setdefault(cut[i][0], i)
    chosen = list(dict.fromkeys([*range(min(HEARD, len(best))), *best]))[: 2 * HEARD]
    for order, clip in enumerate(chosen):
        i, made = best[clip], sides.clips[clip][None]
        row, late = places[i]
        name, stretch = memory.stretch(row, cut[i][1] + late, made.shape[1])
        keep_heard(
            run, f"{order}-sample {clip} beside {safe_name(Path(name).stem)}", {"made": made, "nearest": stretch}
        )


def keep_heard(run: Run, name: str, sides: Mapping[str, Tensor]) -> None:
    """samples/heard: a wave [1, N] of each side, for the report to play."""
    for side, wave in sides.items():
        write([wave], run.folder / HEARD_IN, spec=run.spec, names=[f"{name}.{side}.wav"])


@torch.inference_mode()
def surprise(model: Any, seen: AudioSet | None, reference: AudioSet) -> Found:
    """Cross entropy of each code of what was kept out, after those before it, and of as much of what was trained on.

    Raises UserError for a model without such a loss, or for data without its classes.
    """
    phase = model.phases()[0].name
    if model.spec.classes and model.spec.classes != reference.spec.classes:
        raise UserError(
            f"it needs the classes {', '.join(model.spec.classes)}: give --data in sub-folders of these names."
        )

    def nats(data: AudioSet) -> Tensor:
        rows = np.linspace(0, len(data) - 1, min(len(data), len(reference), MOST)).round().astype(np.int64)
        losses = []
        for start in range(0, len(rows), BATCH):
            batch = {k: v.to(model.device) for k, v in data.batch(rows[start : start + BATCH]).items()}
            terms = model(batch, phase)
            if "nats" not in terms:
                raise UserError(f"'{model.name}' gives sound no likelihood.")
            losses.append(terms["nats"].float().cpu())
        return torch.cat(losses)

    found = mean_estimate(nats(reference), NOTES["nats"])
    beside = {} if seen is None else {"training": float(nats(seen).mean())}
    return Found("nats", found, beside | ({"uniform": math.log(model.codes)} if hasattr(model, "codes") else {}))
