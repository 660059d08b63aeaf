"""Pictures: a folder, zip or tar of them, or a built-in set, -> batches in [-1, 1]."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genloom.core import Batch, Spec, mix
from genloom.data.base import Dataset
from genloom.data.catalog import Entry
from genloom.data.decode import SUFFIXES, Plan, colours, decode, fit, read_each
from genloom.data.draw import channels_last, preview, write
from genloom.data.files import Files, UnreadableError, digest, index, shown, suffix
from genloom.data.labels import Labelled, by_file, by_folder, held_out, pick_split, spread
from genloom.data.survey import COUNTS, NAMES, ImageOptions, decide, few, look, none_usable
from genloom.errors import UserError

__all__ = ["OPTIONS", "SUFFIXES", "from_catalog", "from_path", "preview", "write"]  # what every modality has

OPTIONS = ImageOptions
IN_MEMORY = 512 * 2**20  # bytes of decoded pictures up to which a data set is decoded once and kept
NAMED = 50  # unreadable files that a summary names
FEWEST = 2  # pictures to train on


@dataclass(eq=False, repr=False, kw_only=True)
class ImageSet(Dataset):
    """Pictures in memory: `pixels` uint8 [N, C, H, W], `ids` i64 [N], empty without classes.

    Batches hold `image` f32 [B, C, H, W] in [-1, 1] (byte b is b / 127.5 - 1) and, with classes, `label` i64 [B].
    """

    pixels: np.ndarray
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    mirror: bool = False

    def __len__(self) -> int:
        return len(self.pixels)

    def labels(self) -> Tensor | None:
        return torch.from_numpy(self.ids) if self.spec.classes else None

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        pixels, rows = self.gather(np.asarray(indices, np.int64))
        if self.mirror:
            mirror(pixels, rows, seed)
        batch = {"image": as_tensor(pixels)}
        return batch | {"label": torch.from_numpy(self.ids.take(rows))} if self.spec.classes else batch

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of those items (a copy), and the numbers of the items that they are."""
        return self.pixels.take(rows, axis=0), rows


@dataclass(eq=False, repr=False, kw_only=True)
class FileSet(ImageSet):
    """Pictures too many for memory, decoded by worker threads as they are asked for (Pillow lets go of the GIL).

    An unreadable file is replaced by the next readable one and recorded in the summary.
    """

    files: Files
    names: Sequence[str]
    plan: Plan
    pixels: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    slow = True

    def __post_init__(self) -> None:
        self.bad: dict[str, str] = {}
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="genloom-decode")

    def __len__(self) -> int:
        return len(self.names)

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = list(self.pool.map(self._readable, rows.tolist()))
        return np.stack([pixels for pixels, _ in found]), np.array([i for _, i in found], np.int64)

    def _readable(self, first: int) -> tuple[np.ndarray, int]:
        """The picture of that number [C, S, S], or of the next number whose file can be read."""
        for i in chain(range(first, len(self)), range(first)):
            if self.names[i] not in self.bad:
                try:
                    return decode(self.files, self.names[i], self.plan), i
                except UnreadableError as error:
                    with self.lock:
                        self.bad[self.names[i]] = str(error)
                        self.summary["skipped"] = skipped(self.bad)
        raise none_usable(self.name, self.bad)


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Bytes as f32 in [-1, 1]: byte b is b / 127.5 - 1."""
    image = pixels.astype(np.float32)  # numpy: threads would cost more than so little work
    image /= 127.5
    image -= 1
    return torch.from_numpy(image)


def mirror(pixels: np.ndarray, numbers: np.ndarray, seed: int) -> None:
    """Turn half of the pictures [B, C, H, W] around, in place: which, (seed, number of the item) decides."""
    flips = coins(numbers, seed)
    pixels[flips] = pixels[flips][..., ::-1]


def coins(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A fair coin [B] bool for each item number, by (seed, number) alone: splitmix64 over the array."""
    h = (numbers.astype(np.uint64) + np.uint64(mix(seed))) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (h >> np.uint64(63)).astype(bool)


# ── from disk ────────────────────────────────────────────────────────────────────────────────────────────────────
def from_path(path: Path, *, split: str = "train", like: Spec | None = None, **given: Any) -> ImageSet:
    """The pictures of a folder, zip or tar, classes by sub-folder or labels file; options are those of ImageOptions.

    They are kept decoded up to 512 MB, else decoded as needed. Raises UserError when fewer than two can be used, when a
    class has none, or when the labels file does not fit the files.
    """
    options = as_in(like, ImageOptions.of(given))
    files = pictures_in(path)
    chosen = choose(files, split, options)
    headers, bad = look(files, chosen.names, str(path))
    plan, notes = decide(headers, options)
    small = len(chosen.names) * plan.channels * plan.size**2 <= IN_MEMORY
    if small:
        pixels, bad = decode_all(files, chosen.names, plan)
        if len(bad) == len(chosen.names):
            raise none_usable(str(path), bad)
        chosen.drop(bad)
    check_classes(chosen)
    if len(chosen.names) < FEWEST:
        raise UserError(f"Training needs at least {FEWEST} pictures, and '{path}' has one that can be used: add more.")
    spec = Spec("image", (plan.channels, plan.size, plan.size), chosen.classes)
    labels = options.labels and options.labels.read_bytes()
    made: dict[str, Any] = {
        "name": path.resolve().name or str(path),
        "spec": spec,
        "fingerprint": digest(files.fingerprint, split, plan, options.limit, labels),
        "summary": summarise(files.kind, chosen, plan, bad, notes + few(len(chosen.names)), small, files.others),
        "ids": chosen.ids,
        "mirror": options.mirror,
        "test": lambda: _test_split(path, files, spec, options) if split == "train" else None,
    }
    return ImageSet(**made, pixels=pixels) if small else FileSet(**made, files=files, names=chosen.names, plan=plan)


def pictures_in(path: Path) -> Files:
    """The pictures of a folder, zip or tar, by their endings. Raises UserError when there is none, or only one."""
    if path.is_file() and suffix(path.name) in SUFFIXES:
        raise UserError(f"'{path}' is one picture: give a folder, zip or tar of at least {FEWEST}.")
    files = index(path, SUFFIXES)
    if not files.names:
        others = f"{files.others} other file{'s' * (files.others > 1)}, such as {', '.join(files.other_names)}"
        among = f", but {others}" if files.others else ": it is empty"
        raise UserError(f"'{path}' holds no picture{among}. Pictures end in .png, .jpg, .webp and the like.")
    return files


def as_in(like: Spec | None, options: ImageOptions) -> ImageOptions:
    """The options with size and colours of that Spec, where they say nothing else."""
    if like is None:
        return options
    colours = options.channels if options.channels != "auto" else NAMES[like.shape[0]]
    return replace(options, size=options.size or like.shape[-1], channels=colours)


def choose(files: Files, split: str, options: ImageOptions) -> Labelled:
    """The files to use, with their classes. Raises UserError when labels or splits do not fit the files."""
    names = pick_split(files.names, split)
    if options.labels is None:
        chosen = by_folder(names, files.folders)
    else:
        chosen = by_file(files.names, options.labels)
        chosen.drop(set(chosen.names) - set(names))
    if options.limit is not None:
        chosen.take(spread(options.limit, len(chosen.names)))
    return chosen


def _test_split(path: Path, files: Files, spec: Spec, options: ImageOptions) -> Dataset | None:
    """The pictures in a folder named test (or val), made like those to train on."""
    if not held_out(files.names):
        return None
    test = from_path(path, split="test", like=spec, **vars(replace(options, mirror=False, limit=None)))
    if test.spec.classes != spec.classes:
        raise UserError(f"'{path}' has other classes to test on than to train on: give both splits the same folders.")
    return test


def check_classes(chosen: Labelled) -> None:
    """Raises UserError when a class has no picture left."""
    for name, count in chosen.counts().items():
        if count == 0:
            raise UserError(f"Class '{name}' has no usable picture: mend its files, or remove the class.")


def decode_all(files: Files, names: Sequence[str], plan: Plan) -> tuple[np.ndarray, dict[str, str]]:
    """Decode in threads: uint8 [readable, C, S, S] in order, and why the others cannot be read."""
    pixels = np.empty((len(names), plan.channels, plan.size, plan.size), np.uint8)
    bad: dict[str, str] = {}
    for i, (_, picture) in enumerate(read_each(lambda name: decode(files, name, plan), names, bad)):
        pixels[i] = picture  # at once: a copy of all would need the memory twice
    return pixels[: len(names) - len(bad)], bad


def open_picture(path: Path, spec: Spec, given: Mapping[str, Any]) -> Tensor:
    """One picture, made as those of a data set with these options are: [C, S, S] in [-1, 1].

    Raises UserError when it cannot be read as a picture.
    """
    options = ImageOptions.of({k: v for k, v in given.items() if k in ("fit", "background")})
    files = Files("picture", lambda name: path.open("rb"))
    try:
        pixels = decode(files, str(path), Plan(spec.shape[1], spec.shape[0], options.fit, options.colour()))
    except UnreadableError as error:
        raise UserError(f"'{path}' cannot be used as a picture: {error}.") from None
    return as_tensor(pixels)


# ── by name ──────────────────────────────────────────────────────────────────────────────────────────────────────
def from_catalog(entry: Entry, *, split: str = "train", like: Spec | None = None, **given: Any) -> ImageSet:
    """A built-in data set, as it is or made to another size, channels, or number of pictures."""
    options = ImageOptions.of(given)
    if options.labels is not None:
        raise UserError(f"'{entry.name}' has its own labels: leave the option out.")
    raw = entry.load(split)
    native: tuple[int, ...] = raw.pixels.shape[1:]
    channels = COUNTS.get(options.channels, native[0])
    plan = Plan(options.size or native[1], channels, options.fit, options.colour())
    numbers = spread(options.limit or len(raw.ids), len(raw.ids))
    chosen = Labelled([""] * len(numbers), raw.ids[numbers], raw.classes)
    pixels = raw.pixels[numbers]
    if (plan.channels, plan.size, plan.size) != native:
        pixels = np.stack([fit(colours(Image.fromarray(p), plan), plan) for p in channels_last(pixels)])
    as_here = vars(replace(options, mirror=False, limit=None))
    return ImageSet(
        name=entry.name,
        spec=Spec("image", pixels.shape[1:], raw.classes),
        fingerprint=digest(raw.fingerprint, split, plan, options.limit),
        summary=summarise("built in", chosen, plan, {}, [], True, 0),
        pixels=pixels,
        ids=chosen.ids,
        mirror=options.mirror,
        test=lambda: from_catalog(entry, split="test", **as_here) if split == "train" else None,
    )


def summarise(
    kind: str, chosen: Labelled, plan: Plan, bad: dict[str, str], notes: list[str], in_memory: bool, others: int
) -> dict[str, Any]:
    """What a data set says of itself in run.json and the report."""
    return {
        "items": len(chosen.names),
        "kind": kind,
        "size": plan.size,
        "channels": NAMES[plan.channels],
        "classes": chosen.counts(),
        "skipped": skipped(bad),
        "other_files": others,
        "in_memory": in_memory,
        "notes": [*chosen.notes, *notes],
    }


def skipped(bad: dict[str, str]) -> dict[str, Any]:
    """How many files could not be read, and the first of them by name with the reason."""
    return {"count": len(bad), "files": {shown(k): bad[k] for k in sorted(bad)[:NAMED]}}
