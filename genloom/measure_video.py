"""A run of films + data -> metrics.json: films it never saw, made again beside what is real; or clips made from nothing.

Films are made frame by frame as they come, and beside each figure stands the same of the same model without memory of
earlier frames (`per frame`), of the source as it is (`input`) and, of warping, of the real film.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom import generate, measure_clips
from genloom.core import NEEDS, Model, Spec
from genloom.data.base import Dataset
from genloom.data.files import safe_name
from genloom.data.image import as_tensor
from genloom.data.motion import flows, opencv
from genloom.data.video import Film, Writer, side_by_side
from genloom.errors import UserError
from genloom.measure import FEWEST, SMALL, Asked, chosen, left_out, row
from genloom.metrics import distribution, video
from genloom.metrics.distribution import Estimate
from genloom.metrics.features import Extractor, extractor, quantise
from genloom.metrics.lite0 import Lite0
from genloom.metrics.video import PROTOCOL
from genloom.run import SEEN_IN, Run

PIECE = 16  # frames of a film that are looked at at a time
STRETCH = 8  # frames that count as one for intervals, where films are few: neighbours are alike
MOST = 10_000  # frames of films that are made, unless others are asked for
CLIP = 16  # frames of a clip cut from a film
SEEN, SECONDS = 4, 20  # films that the report shows, and how much of each at most

NOTES = {
    "psnr": "at most 60",
    "ssim": "windows of 7 pixels",
    "perceptual": "from 0 to 4; LPIPS is another scale",
    "warping": "mean square over what is not hidden, values from 0 to 1, along the real film's motion; blur lowers it too",
    "motion": "pixels a step, from optical flow to optical flow",
    "flicker": "root mean square, grey levels of 255",
    "fvd": PROTOCOL,
    "kvd": PROTOCOL,
}
Sides = dict[str, np.ndarray]  # frames u8 [n, C, H, W] of one piece: real, source, made, per frame, input


def measured(asked: Asked) -> tuple[dict[str, Any], int]:
    """Figures, and how many frames of films or clips they are of: n at most, else 10,000 frames, or 256 clips (1,000 of digits).

    Films side by side are kept in samples/seen. Raises UserError for an unknown measure and for data that do not fit.
    """
    eye = asked.eye()
    model: Any = generate.load(asked.run)
    if not model.needs:
        return measure_clips.measured(asked, model, eye)
    chosen(asked.metrics, NOTES, "metric of films")
    check_frames(asked.run, asked.reference)
    return films_made_again(asked.run, model, asked.reference, eye, asked.metrics, asked.n or MOST)


def check_frames(run: Run, reference: Dataset) -> None:
    """Raises UserError for data that are no films with sources, of the run's planes and size."""

    def words(spec: Spec) -> str:
        channels, _, height, width = spec.shape
        return f"{width} × {height} pixels, {spec.extra['source_channels']} planes to {channels}"

    if not hasattr(reference, "films") or "source_channels" not in reference.spec.extra:
        raise UserError(f"'{reference.name}' cannot be measured with: give {NEEDS['films']}.")
    if words(run.spec) != words(reference.spec):
        raise UserError(
            f"This run makes films of {words(run.spec)}, and those of '{reference.name}' are of {words(reference.spec)}: "
            "give others as --data."
        )


@torch.inference_mode()
def films_made_again(
    run: Run, model: Any, reference: Any, eye: Extractor, metrics: Sequence[str] | None, most: int
) -> tuple[dict[str, Any], int]:
    wanted, warnings, lite0 = dict.fromkeys(metrics or NOTES), list[str](), eye
    if "perceptual" in wanted and eye.name != "lite0":
        with left_out("perceptual", warnings, asked=bool(metrics)):
            lite0 = extractor("lite0")
    if lite0.name != "lite0":
        wanted.pop("perceptual", None)
    tally = Tally(list(wanted), lite0, eye)
    count = tally_films(run, model, reference, tally, most)
    warnings += filter(None, [tally.note])
    if count < sum(film.count for film in reference.films()):
        warnings.append(f"The first {count:,} frames were made again; -n asks for more.")
    result = {"counted": "frames made again", "metrics": [], "warnings": warnings, "beside": {}}
    tally.figures(result)
    return result | {"films": len(tally.films), "frames_a_second": count / max(tally.seconds, 1e-9)}, count


def tally_films(run: Run, model: Any, reference: Any, tally: Tally, most: int) -> int:
    """Make each film again, look at it, and keep the first ones to be seen; how many frames there were."""
    total, folder = 0, run.folder / SEEN_IN
    for old in folder.glob("*.mp4"):
        old.unlink()
    rate = float(run.spec.extra["rate"])
    for number, film in enumerate(reference.films()):
        if total >= most:
            break
        tally.begin()
        path = folder / f"{number}-{safe_name(film.name)}.mp4"
        with Writer(path, rate) if number < SEEN else nullcontext() as shown:
            for sides, seconds in pieces(model, film, most - total):
                tally.add(sides, seconds)
                total += len(sides["real"])
                for source, made, real in zip(sides["source"], sides["made"], sides["real"], strict=True):
                    if shown and shown.count < SECONDS * rate:
                        shown.add(side_by_side(source, made, real))
                        tally.note = shown.note
    return total


def pieces(model: Any, film: Film, most: int) -> Iterator[tuple[Sides, float]]:
    """A film's frames, some at a time, with what each way makes of its source; and the seconds that making took."""
    if film.source is None:
        raise UserError(f"'{film.name}' has no source to make it from: give films with their sources.")
    ways = {"made": generate.streamed(model, sources(film))}
    if "alone" in inspect.signature(model.stream).parameters:
        ways["per frame"] = generate.streamed(model, sources(film), alone=True)
    for i in range(0, min(film.count, most), PIECE):
        last = min(i + PIECE, film.count, most)
        sides = {"real": film.read(i, last), "source": film.source(i, last)}
        seconds = time.perf_counter()
        sides["made"] = as_bytes(islice(ways["made"], last - i))
        seconds = time.perf_counter() - seconds
        sides |= {side: as_bytes(islice(way, last - i)) for side, way in ways.items() if side != "made"}
        if (given := as_target(sides["source"], model)) is not None:
            sides["input"] = given
        yield sides, seconds


def sources(film: Film) -> Iterator[Tensor]:
    """The frames that a film is made from, each [1, C', H, W] in [-1, 1]."""
    assert film.source is not None
    for i in range(0, film.count, PIECE):
        yield from as_tensor(film.source(i, min(i + PIECE, film.count))).split(1)


def as_bytes(frames: Iterator[Tensor]) -> np.ndarray:
    """Frames [1, C, H, W] in [-1, 1] as they would be saved: u8 [n, C, H, W]."""
    made = torch.cat([*frames])
    if not made.isfinite().all():
        raise UserError("What the model makes is not numbers (NaN): fit again, with a lower --lr.")
    return (quantise(made) * 127.5 + 127.5).round().to(torch.uint8).numpy()


def as_target(source: np.ndarray, model: Model) -> np.ndarray | None:
    """The source as if it were the target, where it is a picture of the same kind; None for planes of labels."""
    channels = model.spec.shape[0]
    if model.spec.extra.get("palette"):
        return None
    if source.shape[1] == channels:
        return source
    if source.shape[1] == 1:
        return source.repeat(channels, 1)
    if channels == 1 and source.shape[1] == 3:
        grey = np.tensordot(source.astype(np.float32), np.array([0.299, 0.587, 0.114], np.float32), (1, 0))
        return grey.round().astype(np.uint8)[:, None]
    return None


class Tally:
    """Figures of every frame and step of films, by measure and side, as their pieces come."""

    def __init__(self, wanted: list[str], lite0: Extractor, eye: Extractor):
        self.wanted, self.lite0, self.eye, self.seconds = set(wanted), lite0, eye, 0.0
        self.films: list[dict[tuple[str, str], list[Tensor]]] = []
        self.method, self.note = "dis", ""
        try:
            opencv()
        except UserError:
            self.method = "pyramid"

    def begin(self) -> None:
        """A new film."""
        self.films.append({})
        self.before: Sides = {}

    def add(self, sides: Sides, seconds: float) -> None:
        self.seconds += seconds
        looked = {side: frames for side, frames in sides.items() if side != "source"}
        self._frames({side: as_tensor(frames) for side, frames in looked.items()})
        joined = {side: np.concatenate([self.before[side], x]) if self.before else x for side, x in looked.items()}
        if len(joined["real"]) > 1:
            self._steps(joined)
        self.before = {side: frames[-1:] for side, frames in looked.items()}

    def _keep(self, name: str, side: str, values: Tensor) -> None:
        if name in self.wanted:
            self.films[-1].setdefault((name, side), []).append(values.cpu())

    def _frames(self, frames: dict[str, Tensor]) -> None:
        """What is of each frame [n]; of sets of clips its features [n, d]."""
        looks, net = self.wanted & {"perceptual", "fvd", "kvd"}, self.lite0.net
        real = frames["real"]
        maps = list[Tensor]()
        for side, x in frames.items():  # the real ones are the first
            mine, features = video.seen(net, x) if looks and isinstance(net, Lite0) else ([], None)
            if looks & {"fvd", "kvd"}:
                found = features if features is not None and self.eye is self.lite0 else self.eye.features(x)[0]
                self.films[-1].setdefault(("fvd", side), []).append(found)
            if side == "real":
                maps = mine
                continue
            self._keep("psnr", side, video.psnr(real, x))
            self._keep("ssim", side, video.ssim(real, x))
            if "perceptual" in self.wanted:
                self._keep("perceptual", side, video.perceptual(maps, mine))

    def _steps(self, joined: Sides) -> None:
        """What is of each step [n]."""
        real, moves = as_tensor(joined["real"]), self.wanted & {"warping", "motion"}
        flow, sure = (
            (torch.from_numpy(a).float() for a in flows(joined["real"], self.method)) if moves else (real, real)
        )
        for side, pixels in joined.items():
            x = as_tensor(pixels)
            if "warping" in self.wanted:
                self._keep("warping", side, video.warping_error(x, flow, sure[:, None] / 255))
            if side == "real":
                continue
            self._keep("flicker", side, video.flicker(real, x))
            if "motion" in self.wanted:
                theirs = torch.from_numpy(flows(pixels, self.method)[0]).float()
                self._keep("motion", side, video.motion_error(flow, theirs))

    # what came of it
    def figures(self, result: dict[str, Any]) -> None:
        """Adds rows, the same figures of other sides by their names, and warnings."""
        protocols = {"perceptual": "lite0", "warping": self.method, "motion": self.method}
        for name in (n for n in NOTES if n in self.wanted and n not in ("fvd", "kvd")):
            found = {side: estimate(self.of(name, side), NOTES[name]) for side in self.sides(name)}
            full = f"{name}-{protocols[name]}" if name in protocols else name
            result["metrics"].append(row(full, found.pop("made"), sum(map(len, self.of(name, "made"))), 0))
            result["beside"][full] = {side: e.value for side, e in found.items() if math.isfinite(e.value)}
        if self.wanted & {"fvd", "kvd"}:
            self._as_clips(result)

    def sides(self, name: str) -> list[str]:
        return list(dict.fromkeys(side for film in self.films for measure, side in film if measure == name))

    def of(self, name: str, side: str) -> list[Tensor]:
        return [torch.cat(film[name, side]) for film in self.films if (name, side) in film]

    def _as_clips(self, result: dict[str, Any]) -> None:
        """Fréchet and kernel distances between clips cut from what was made, and from the real films."""
        length = min(CLIP, *(len(x) for x in self.of("fvd", "real")), CLIP)
        clips = {side: clips_of(self.of("fvd", side), length) for side in self.sides("fvd")}
        real = clips.pop("real")
        if len(real) < FEWEST:
            result["warnings"].append(
                f"{len(real)} clips are too few for a distance between sets: give more or longer films."
            )
            return
        if len(real) < SMALL:
            result["warnings"].append(
                f"{len(real):,} clips are few: the Fréchet distance (FVD) is mostly bias then, so trust the kernel distance (KVD)."
            )
        measures = {"kvd": distribution.kernel_distance, "fvd": distribution.frechet_distance}
        for name in (m for m in measures if m in self.wanted):
            found = {side: measures[name](real, y) for side, y in clips.items()}
            full = f"{name}-{self.eye.name}@{len(real)}×{length}"
            made = row(full, found.pop("made"), len(real), 0)
            made |= {"extractor": self.eye.name, "sha256": self.eye.sha256}
            made["note"] = "; ".join(filter(None, [made["note"], NOTES[name]]))
            result["metrics"].append(made)
            result["beside"][full] = {side: e.value for side, e in found.items()}


def estimate(films: list[Tensor], note: str) -> Estimate:
    """The mean over all values of films, each [n] or with some that are NaN; the interval is over films or, of few films,
    over stretches of them, of which the values share their fate."""
    films = [x[x.isfinite()].double() for x in films]
    units = films if len(films) >= FEWEST else [piece for x in films for piece in x.split(STRETCH)]
    units = [u for u in units if len(u)]
    if not units:
        return Estimate(math.nan, (torch.zeros(1),), note)
    sums, counts = torch.stack([u.sum() for u in units]), torch.tensor([len(u) for u in units]).double()
    value = float(sums.sum() / counts.sum())
    over = "films" if len(films) >= FEWEST else f"stretches of {STRETCH} frames"
    return Estimate(value, ((sums - value * counts) / counts.mean(),), f"{note}; interval over {len(units)} {over}")


def clips_of(films: list[Tensor], length: int) -> Tensor:
    """Features [N, 2 d] of clips of so many frames, of films' features [n, d]: end to end, or overlapping where films are few."""
    for hop in (length, max(1, length // 2), max(1, length // 4), 1):
        starts = [(x, i) for x in films for i in range(0, len(x) - length + 1, hop)]
        if len(starts) >= FEWEST:
            break
    return video.clip_features(torch.stack([x[i : i + length] for x, i in starts]))
