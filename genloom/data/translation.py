"""Pictures that become pictures: a source and a target side, in pairs or not, -> batches of both in [-1, 1]."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
from torch import Tensor

from genloom.core import NEEDS, Batch, Spec, mix
from genloom.data import labels as labelling
from genloom.data.base import Dataset
from genloom.data.decode import FORMATS, SUFFIXES, Plan
from genloom.data.files import Files, digest, names_for, shown, suffix
from genloom.data.image import (
    FEWEST,
    IN_MEMORY,
    FileSet,
    ImageSet,
    as_tensor,
    decode_all,
    mirror,
    pictures_in,
    summarise,
)
from genloom.data.survey import NAMES, Channels, ImageOptions, decide, look, none_usable
from genloom.errors import UserError

PAIRED = (("source", "target"), ("A", "B"))  # names of the two sides' folders; also trainA and trainB
UNPAIRED = ", or choose a model that needs no pairs (cyclegan)"
Side = tuple[str, list[str]]  # a folder with its "/", and the sorted names of its files


@dataclass(frozen=True)
class TranslationOptions(ImageOptions):
    """How pictures become sources and targets: size, channels and the like are the targets'."""

    source_channels: Channels = "auto"  # of sources, as channels is of targets
    side_by_side: bool = False  # each picture holds two: the source is its left half, the target its right one
    swap: bool = False  # source and target change places
    jitter: int | None = None  # make pictures this large and cut them to size at random: 286 for 256 in the papers

    def __post_init__(self) -> None:
        """Raises UserError for a value that makes no sense."""
        super().__post_init__()
        if self.labels is not None:
            raise UserError("Pictures that become pictures have no labels: leave the option out.")
        if self.source_channels not in get_args(Channels):
            raise UserError(f"source_channels must be one of {', '.join(get_args(Channels))}.")
        if self.jitter is not None and (self.size is None or self.jitter < self.size):
            raise UserError(f"jitter {self.jitter} needs a size that is no larger: 286 goes with --data.size 256.")


OPTIONS = TranslationOptions


@dataclass(eq=False, repr=False, kw_only=True)
class TranslationSet(Dataset):
    """Two sides of pictures. Batches hold `image` f32 [B, C, H, W], the target, and `source` f32 [B, C', H, W], in [-1, 1].

    Paired, item i is pair i, both cut and mirrored alike. Unpaired, there are as many items as the larger side has
    pictures, and a batch's partners are shifted by a number that its seed decides.
    """

    source: ImageSet
    target: ImageSet
    paired: bool
    mirror: bool

    def __post_init__(self) -> None:
        self.slow = self.target.slow

    def __len__(self) -> int:
        return len(self.target) if self.paired else max(len(self.source), len(self.target))

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        rows = np.asarray(indices, np.int64)
        if self.paired:
            source, target, rows = self._pairs(rows)
            return {"image": self._vary(target, rows, seed), "source": self._vary(source, rows, seed)}
        source, _ = self.source.gather((rows + mix(seed, 1) % len(self)) % len(self.source))
        target, _ = self.target.gather(rows % len(self.target))
        return {"image": self._vary(target, rows, seed), "source": self._vary(source, rows, mix(seed, 2))}

    def _pairs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sources, targets and the numbers of the pairs that they are: a pair of which one is unreadable is passed over."""
        for _ in range(len(self)):
            target, found = self.target.gather(rows)
            source, rows = self.source.gather(found)
            if np.array_equal(found, rows):
                return source, target, rows
        raise none_usable(self.name, self.summary["skipped"]["files"])

    def _vary(self, pixels: np.ndarray, numbers: np.ndarray, seed: int) -> Tensor:
        """Cut to size and mirrored by (seed, number), as f32 in [-1, 1]."""
        size = self.spec.shape[1]
        if room := pixels.shape[-1] - size:
            corners = [(mix(seed, int(n), 0) % (room + 1), mix(seed, int(n), 1) % (room + 1)) for n in numbers]
            pixels = np.stack([p[:, y : y + size, x : x + size] for p, (y, x) in zip(pixels, corners, strict=True)])
        if self.mirror:
            mirror(pixels, numbers, seed)
        return as_tensor(pixels)


# ── from disk ────────────────────────────────────────────────────────────────────────────────────────────────────
def from_path(
    path: Path, *, needs: str, split: str = "train", like: Spec | None = None, **given: Any
) -> TranslationSet:
    """The two sides of a folder, zip or tar; options are those of TranslationOptions, `size` by default that of `like`.

    `needs` "pairs": equal file names (without their endings) belong together; "domains": they need not. Raises UserError
    when there are no two sides, when a picture has no partner, or when fewer than two can be used.
    """
    options = TranslationOptions.of(({"size": like.shape[1]} if like else {}) | given)
    files = pictures_in(path)
    files = halves(files) if options.side_by_side else files
    paired = needs == "pairs"
    found = find_sides(files.names, split)
    if found is None:
        raise UserError(f"'{path}' has no source and target: give {NEEDS[needs]}.")
    names = pair(*found) if paired else (found[0][1], found[1][1])
    source, target = (_limited(n, options.limit) for n in (names[::-1] if options.swap else names))
    plans, notes = _plans(files, source, target, options, str(path))
    small = sum(len(n) * p.channels * p.size**2 for n, p in zip((source, target), plans, strict=True)) <= IN_MEMORY
    bad: dict[str, str] = {}
    pixels: list[np.ndarray] | list[None] = [None, None]
    counts = [len(source), len(target)]
    if small:
        pixels, bad = _decoded(files, (source, target), plans, paired)
        counts = [len(p) for p in pixels]
    if min(counts) == 0 and bad:
        raise none_usable(str(path), bad)
    if min(counts) < FEWEST:
        raise UserError(f"Training needs at least {FEWEST} sources and targets, and '{path}' has fewer: add more.")
    side = options.size or plans[1].size  # with jitter pictures are larger than they are cut to
    kind = f"{files.kind}, {'pairs' if paired else 'two kinds'}"
    both = labelling.Labelled(max(source, target, key=len))
    summary = summarise(kind, both, replace(plans[1], size=side), bad, notes, small, files.others) | {
        "items": max(counts),
        "sources": counts[0],
        "targets": counts[1],
        "source_channels": NAMES[plans[0].channels],
    }
    extra = {
        "source_channels": plans[0].channels,
        "serves": ["pairs", "domains"] if paired else ["domains"],
        "fit": options.fit,
        "background": options.background,
    }
    spec = Spec("image", (plans[1].channels, side, side), extra=extra)
    sides = [
        _side(files, listed, plan, held, str(path), summary)
        for listed, plan, held in zip((source, target), plans, pixels, strict=True)
    ]
    if not small:
        sides[1].bad, sides[1].lock = sides[0].bad, sides[0].lock  # one list of what cannot be read
    return TranslationSet(
        name=path.resolve().name or str(path),
        spec=spec,
        fingerprint=digest(files.fingerprint, split, plans, options.limit, paired, options.swap, options.side_by_side),
        summary=summary,
        source=sides[0],
        target=sides[1],
        paired=paired,
        mirror=options.mirror,
        test=lambda: _test_split(path, files.names, needs, spec, options) if split == "train" else None,
    )


def _side(
    files: Files, names: list[str], plan: Plan, pixels: np.ndarray | None, where: str, summary: dict[str, Any]
) -> Any:
    """The pictures of one side, decoded or to be decoded as needed; what there is to say is said of both."""
    made: dict[str, Any] = {
        "name": where,
        "spec": Spec("image", (plan.channels, plan.size, plan.size)),
        "fingerprint": "",
        "summary": summary,
    }
    if pixels is None:
        return FileSet(**made, files=files, names=names, plan=plan)
    return ImageSet(**made, pixels=pixels)


def find_sides(names: Sequence[str], split: str = "train") -> tuple[Side, Side] | None:
    """The source's and the target's folder with its sorted file names in a split, or None where there are no two sides.

    For the training split: train/source beside train/target, trainA beside trainB, source/train beside target/train, or
    source beside target; A and B stand for source and target.
    """
    base = labelling.common_folder(names)
    for pattern in _patterns(split):
        folders = [f"{base}{folder}/" for folder in pattern]
        source, target = ([n for n in names if n.startswith(folder)] for folder in folders)
        if source and target:
            return (folders[0], source), (folders[1], target)
    return None


def _patterns(split: str) -> list[tuple[str, str]]:
    if split not in labelling.SPLITS:
        raise UserError(f"There is no split '{split}': choose train or test.")
    patterns = []
    for part in labelling.SPLITS[split]:
        patterns += [(f"{part}/{a}", f"{part}/{b}") for a, b in PAIRED]
        patterns += [(f"{part}A", f"{part}B")]
        patterns += [(f"{a}/{part}", f"{b}/{part}") for a, b in PAIRED]
    return patterns + (list(PAIRED) if split == "train" else [])


def pair(source: Side, target: Side, what: str = "picture", otherwise: str = UNPAIRED) -> tuple[list[str], list[str]]:
    """Both sides' files in the order of their names. Raises UserError that names the first without partner, and says what
    to do `otherwise` than add it."""

    def stems(side: Side) -> dict[str, str]:
        folder, found = len(side[0]), dict[str, str]()
        for name in side[1]:
            stem = name[folder : len(name) - len(suffix(name))]
            if stem in found:
                raise UserError(f"'{shown(found[stem])}' and '{shown(name)}' have one name: keep one, or rename both.")
            found[stem] = name
        return found

    a, b = stems(source), stems(target)
    if alone := a.keys() ^ b.keys():
        first = min(alone)
        name, other = (a[first], target[0]) if first in a else (b[first], source[0])
        raise UserError(
            f"'{shown(name)}' has no partner of the same name in '{shown(other)}' ({len(alone)} of {len(a | b)} names are "
            f"alone): add it or remove the {what}{otherwise}."
        )
    order = sorted(a)
    return [a[stem] for stem in order], [b[stem] for stem in order]


def halves(files: Files) -> Files:
    """Pictures that hold two side by side, as files of their own: source/NAME the left halves, target/NAME the right."""
    base = len(labelling.common_folder(files.names))
    splits = {folder for names in labelling.SPLITS.values() for folder in names}
    origin: dict[str, tuple[str, str]] = {}
    for name in files.names:
        top, slash, _ = name[base:].partition("/")
        part = f"{top}/" if slash and top in splits else ""
        for side in PAIRED[0]:
            origin[f"{part}{side}/{name[base + len(part) :]}"] = name, side

    def read(name: str) -> BinaryIO:
        from PIL import Image, ImageOps

        whole, side = origin[name]
        with files.open(whole) as stream, Image.open(stream, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
        width, left = upright.width // 2, upright.width // 2 if side == "target" else 0
        half = upright.crop((left, 0, left + width, upright.height))
        half = half if half.mode in ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA") else half.convert("RGB")
        buffer = io.BytesIO()
        half.save(buffer, "PNG", compress_level=0)
        buffer.seek(0)
        return buffer

    return replace(files, open=read, names=sorted(origin))


def _limited(names: list[str], limit: int | None) -> list[str]:
    """So many of them, evenly spaced."""
    return [names[i] for i in labelling.spread(limit or len(names), len(names))]


def _plans(
    files: Files, source: list[str], target: list[str], options: TranslationOptions, where: str
) -> tuple[tuple[Plan, Plan], list[str]]:
    """What sources and targets become, as large as they are cut from, and what a person may want to know of it."""
    plans: list[Plan] = []
    notes: list[str] = []
    jitter = options.jitter
    for words, names in (("Targets", target), ("Sources", source)):
        headers, _ = look(files, names, where)
        plan, more = decide(headers, options)
        plans.append(replace(plan, size=jitter or plan.size))
        notes += [f"{words}: {note}" for note in more]
        options = replace(options, size=plan.size, channels=options.source_channels, jitter=None)
    return (plans[1], plans[0]), notes


def _decoded(
    files: Files, names: tuple[list[str], list[str]], plans: tuple[Plan, Plan], paired: bool
) -> tuple[list[np.ndarray], dict[str, str]]:
    """Both sides' pictures, and why some cannot be read: those leave, with their partners where they have any."""
    (source, a), (target, b) = (decode_all(files, *side) for side in zip(names, plans, strict=True))
    bad = a | b
    if bad and paired:
        good = [np.array([name not in bad for name in listed]) for listed in names]
        source, target = source[good[1][good[0]]], target[good[0][good[1]]]
    return [source, target], bad


def _test_split(
    path: Path, names: Sequence[str], needs: str, spec: Spec, options: TranslationOptions
) -> Dataset | None:
    """The pictures in folders named test (or val, testA ...), made like those to train on."""
    if find_sides(names, "test") is None:
        return None
    same = replace(
        options,
        size=spec.shape[1],
        channels=NAMES[spec.shape[0]],
        source_channels=NAMES[spec.extra["source_channels"]],
        jitter=None,
        mirror=False,
        limit=None,
    )
    return from_path(path, needs=needs, split="test", **vars(same))


# ── looking, and sampling ────────────────────────────────────────────────────────────────────────────────────────
def describe(names: Sequence[str]) -> list[str]:
    """What a model that makes pictures from pictures would find in files of these names, in sentences."""
    sides = find_sides(names)
    if sides is None:
        return []
    (a, source), (b, target) = sides
    found = f"{len(source):,} sources in '{shown(a)}' and {len(target):,} targets in '{shown(b)}'"
    try:
        pair(*sides)
    except UserError as error:
        return [f"For models that make pictures from pictures: {found}; without pairs (cyclegan). {error}"]
    return [f"For models that make pictures from pictures: {found}, in pairs (pix2pix, cyclegan)."]


def read_sources(path: Path, spec: Spec, *, targets: bool = False) -> tuple[Tensor, list[str]]:
    """Pictures to start from [n, C', H, W] in [-1, 1], of one file or a folder, zip or tar, and PNG names for results.

    `targets`: made like targets, for the way back. Raises UserError for a file that cannot be read.
    """
    if not path.exists():
        raise UserError(f"There is nothing at '{path}': check the path of --source.")
    if path.is_file() and suffix(path.name) in SUFFIXES:
        files = Files("file", lambda name: open(path, "rb"), [path.name])  # noqa: SIM115, its reader closes it
    else:
        files = pictures_in(path)
    channels = spec.shape[0] if targets else int(spec.extra["source_channels"])
    background = ImageOptions(background=spec.extra.get("background", "white")).colour()
    plan = Plan(spec.shape[1], channels, spec.extra.get("fit", "crop"), background)
    pixels, bad = decode_all(files, files.names, plan)
    if bad:
        name, why = next(iter(bad.items()))
        raise UserError(f"'{shown(name)}' in '{path}' cannot be read: {why}.")
    return as_tensor(pixels), names_for(files.names, ".png")
