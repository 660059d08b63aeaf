"""Sound: files of any kind to segments of one length at one rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom.core import Batch, Spec, mix
from genloom.data.base import DataOptions, Dataset
from genloom.data.catalog import Entry
from genloom.data.files import READING, Files, digest, noting, shown, streams
from genloom.data.growing import Growing, OnDisk
from genloom.data.sound import SUFFIXES, Sound, decoded, read, read_sources, write
from genloom.errors import UserError, unknown

__all__ = ["OPTIONS", "SUFFIXES", "AudioOptions", "AudioSet", "from_catalog", "from_path", "read_sources", "write"]

LOOKED_AT = 64  # files whose rates vote
HIGHEST = 24_000  # Hz that `auto` goes up to
PEAK = 0.95  # of full scale, to which `level` brings each file
CLIPPED = 0.001  # share of clipped samples from which a file is told of


@dataclass(frozen=True)
class AudioOptions(DataOptions):
    """How sound becomes items."""

    rate: int | None = None  # samples a second; by default what most files have, at most 24,000
    seconds: float = 1.0  # length of an item
    level: bool = False  # bring each file to the same peak
    held_out: float = 0.05  # share of the files kept out of training; of a few long files, from the middle of each

    def __post_init__(self) -> None:
        """Raises UserError for a value that makes no sense."""
        self.check(
            ("rate", self.rate is None or 1000 <= self.rate <= 192_000, "from 1,000 to 192,000 Hz"),
            ("seconds", 0.01 <= self.seconds <= 600, "from 0.01 to 600"),
            ("held_out", 0 <= self.held_out <= 0.5, "a share from 0 to 0.5"),
        )


OPTIONS = AudioOptions


def from_path(path: Path, *, split: str = "train", like: Spec | None = None, **given: Any) -> AudioSet:
    """The sounds of a folder, zip or tar, or of one file; sub-folders are classes. Options are those of AudioOptions.

    Raises UserError when no sound can be used.
    """
    return _opened(path, path.resolve().name, split, like, given)


def from_catalog(entry: Entry, *, split: str = "train", like: Spec | None = None, **given: Any) -> AudioSet:
    return _opened(entry.load(split), entry.name, split, like, given)


def _opened(path: Path, name: str, split: str, like: Spec | None, given: Mapping[str, Any]) -> AudioSet:
    if split not in ("train", "test"):
        raise unknown("split", split, ("train", "test"))
    options, files = AudioOptions.of(given), sounds_in(path)
    rate = options.rate or (int(like.extra["rate"]) if like else commonest(files))
    length = like.shape[1] if like and "seconds" not in given else round(options.seconds * rate)
    kept = Kept(rate, length, options)
    for file in files.names:
        with noting(kept.bad, file), files.open(file) as stream:
            kept.add(file, read(stream, file, rate))
    if not kept.spans["train"]:
        raise nothing_usable(str(path), kept.bad)
    return kept.dataset(name, files.fingerprint, split)


def sounds_in(path: Path) -> Files:
    files = streams(path, SUFFIXES)
    if not files.names:
        raise UserError(f"'{path}' holds no sound ({', '.join(sorted(SUFFIXES))}).")
    return files


def commonest(files: Files) -> int:
    """The rate that most of the first files have, at most 24,000 Hz; of those that cannot be read, nothing is heard."""
    rates: Counter[int] = Counter()
    for name in files.names[:LOOKED_AT]:
        with suppress(*READING), files.open(name) as stream:
            original, _, blocks = decoded(stream, name)
            blocks.close()  # type: ignore[attr-defined]
            rates[original] += 1
    return min(rates.most_common(1)[0][0], HIGHEST) if rates else HIGHEST


def nothing_usable(where: str, bad: Mapping[str, str]) -> UserError:
    name, why = next(iter(bad.items()))
    return UserError(f"No sound in '{where}' can be used, such as '{name}': {why}.")


@dataclass
class Kept:
    """The samples of all files in one row, where each file lies in it, and what a person should know."""

    rate: int
    length: int
    options: AudioOptions
    bad: dict[str, str] = field(default_factory=dict)
    spans: dict[str, list[tuple[int, int, str]]] = field(default_factory=lambda: {"train": [], "test": []})
    silent: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)
    short: int = 0

    def __post_init__(self) -> None:
        self.row = Growing(np.float32)

    def add(self, name: str, sound: Sound) -> None:
        every = round(1 / self.options.held_out) if self.options.held_out else 0
        count = sum(map(len, self.spans.values()))
        part = "test" if every and count % every == every - 1 else "train"
        samples = sound.samples
        if sound.silent:
            self.silent.append(shown(name))
        if sound.clipped > CLIPPED:
            self.clipped.append(shown(name))
        if self.options.level and not sound.silent:
            samples = samples * np.float32(PEAK / np.abs(samples).max())
        self.short += len(samples) < self.length
        self.spans[part].append((len(self.row), len(self.row) + len(samples), name))
        self.row.add(samples.clip(-1, 1))

    def hold_out_middles(self) -> None:
        """Where there are too few files to keep whole ones out: a share from the middle of each in which an item fits.

        Not from the ends, where music fades out and is like nothing else.
        """
        spans, self.spans["train"] = self.spans["train"], []
        for first, last, name in spans:
            size = round(self.options.held_out * (last - first))
            if size < self.length:
                self.spans["train"].append((first, last, name))
                continue
            start = first + (last - first - size) // 2
            self.spans["test"].append((start, start + size, name))
            self.spans["train"] += [(first, start, name), (start + size, last, name)]

    def dataset(self, name: str, fingerprint: str, split: str) -> AudioSet:
        if not self.spans["test"]:
            self.hold_out_middles()
        folders = sorted({folder_of(name) for part in self.spans.values() for _, _, name in part})
        classes = tuple(folders) if len(folders) > 1 else ()
        total = len(self.row) / self.rate
        summary = {
            "items": len({name for part in self.spans.values() for *_, name in part}),
            "kind": "sounds",
            "minutes": round(total / 60, 2),
            "rate": self.rate,
            "skipped": {"count": len(self.bad), "files": dict(list(self.bad.items())[:20])},
            "notes": self.notes(),
        }
        fingerprint = digest(fingerprint, self.options, self.rate, self.length)
        spec = Spec("audio", (1, self.length), classes=classes, extra={"rate": self.rate})
        row = self.row.array()
        train, test = (
            AudioSet(name, spec, fingerprint, summary, row, spans, shifts=part == "train") if spans else None
            for part, spans in self.spans.items()
        )
        if split == "test" and test is None:
            raise UserError(f"'{name}' holds too few sounds to keep some out of training: give --data.held-out 0.")
        assert train is not None
        train.test = lambda: test
        return train if split == "train" or test is None else test

    def notes(self) -> list[str]:
        found = []
        for names, what in ((self.silent, "silent"), (self.clipped, "clipped, for they reach full scale")):
            if names:
                found.append(f"{len(names)} files are {what}, such as {names[0]}.")
        if ends := {name for *_, name in self.spans["test"]} & {name for *_, name in self.spans["train"]}:
            kept = f"{100 * self.options.held_out:g} % of {'it' if len(ends) == 1 else 'each long one'}"
            found.append(f"Too few files to keep whole ones out of training: {kept} is, from the middle.")
        if self.short:
            found.append(f"{self.short} files are shorter than an item, and are filled up with silence.")
        return found


class AudioSet(Dataset):
    """Segments [1, N] of files, one after another; with `shifts` each begins a little elsewhere, by (seed, number)."""

    def __init__(
        self,
        name: str,
        spec: Spec,
        fingerprint: str,
        summary: dict[str, Any],
        row: np.ndarray | OnDisk,
        spans: list[tuple[int, int, str]],
        *,
        shifts: bool,
    ):
        self.name, self.spec, self.fingerprint, self.summary = name, spec, fingerprint, summary
        self.row, self.spans, self.shifts = row, spans, shifts
        self.length = spec.shape[1]
        counts = [max(1, (b - a) // self.length) for a, b, _ in spans]
        self.ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        items = np.zeros((len(indices), 1, self.length), np.float32)
        for place, i in enumerate(indices.tolist()):
            file, within = self._find(i)
            first, last, _ = self.spans[file]
            start = first + within * self.length
            if self.shifts:
                start += mix(seed, i) % self.length
            start = max(first, min(start, last - self.length))
            found = self.row[start : min(start + self.length, last)]
            items[place, 0, : len(found)] = found
        batch = {"audio": torch.from_numpy(items)}
        if self.spec.classes:
            batch["label"] = self._labels(indices)
        return batch

    def still(self) -> Dataset:
        found = copy(self)
        found.shifts = False
        return found

    def labels(self) -> Tensor | None:
        return self._labels(np.arange(len(self))) if self.spec.classes else None

    def clips(self) -> Iterator[tuple[str, np.ndarray]]:
        """The name and all samples [N] of each file."""
        for first, last, name in self.spans:
            yield shown(name), self.row[first:last]

    def _find(self, i: int) -> tuple[int, int]:
        """The file of item i, and which of its segments it is."""
        file = int(np.searchsorted(self.ends, i, side="right"))
        return file, i - (int(self.ends[file - 1]) if file else 0)

    def _labels(self, indices: np.ndarray) -> Tensor:
        numbers = {name: k for k, name in enumerate(self.spec.classes)}
        files = [self.spans[self._find(int(i))[0]][2] for i in indices]
        return torch.tensor([numbers[folder_of(name)] for name in files], dtype=torch.int64)


def folder_of(name: str) -> str:
    return name.rpartition("/")[0]
