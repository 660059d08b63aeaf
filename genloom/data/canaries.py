"""Canaries: made-up items that are planted in the training data, some more often than others, to see what is remembered.

A canary is random, so nothing but training can teach it. How low its loss is beside that of as random ones which were never
planted is its exposure (Carlini et al. 2019). They depend on (seed, number) alone: run.json keeps those and no item.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genloom.core import Batch, Spec, generator
from genloom.data.base import Dataset
from genloom.data.files import hashed
from genloom.errors import UserError
from genloom.nn.columns import made_up

TIMES = (1, 2, 4, 8, 16)  # how often they are planted, in turn
KEYS = {"image": "image", "text": "text", "audio": "audio", "table": "table"}


class Planted(Dataset):
    """A data set and `count` canaries after it, number i of them TIMES[i mod 5] times."""

    def __init__(self, data: Dataset, count: int, seed: int):
        if data.spec.modality not in KEYS or data.spec.extra.get("serves"):
            raise UserError(
                f"Canaries are planted in pictures, texts, sounds and tables: leave --canaries out of '{data.name}'."
            )
        if count < 1:
            raise UserError(f"--canaries is {count}: give 1 or more.")
        self.data, self.seed = data, seed
        self.spec, self.name, self.slow, self.unit = data.spec, data.name, data.slow, data.unit
        self.rows = [i for i in range(count) for _ in range(TIMES[i % len(TIMES)])]
        self.fingerprint = hashed(f"{data.fingerprint} {count} {seed}".encode())
        note = (
            f"{count} canaries are planted, {len(self.rows)} items in all: made-up ones that `genloom audit` looks for."
        )
        self.summary = {**data.summary, "notes": [*data.summary.get("notes", ()), note]}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["data"], name)  # what else a kind of data gives

    def __len__(self) -> int:
        return len(self.data) + len(self.rows)

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        indices = np.asarray(indices, np.int64)
        planted = np.flatnonzero(indices >= len(self.data))
        batch = self.data.batch(np.where(indices < len(self.data), indices, 0), seed=seed)
        for place in planted.tolist():
            number = self.rows[int(indices[place]) - len(self.data)]
            for key, value in canary(self.spec, self.seed, number, like=batch).items():
                batch[key][place] = value
        return batch

    def labels(self) -> Tensor | None:
        known = self.data.labels()
        if known is None:
            return None
        return torch.cat([known, torch.tensor([label_of(self.spec, self.seed, i) for i in self.rows])])

    def still(self) -> Dataset:
        found = Planted.__new__(Planted)
        found.__dict__ |= self.__dict__ | {"data": self.data.still()}
        return found

    def held_out(self) -> Dataset | None:
        return self.data.held_out()


def planted(data: Dataset, told: Mapping[str, Any] | None) -> Dataset:
    """The data as it was trained on: with the canaries that run.json tells of, if any."""
    return Planted(data, int(told["count"]), int(told["seed"])) if told else data


def canary(spec: Spec, seed: int, number: int, *, like: Batch) -> dict[str, Tensor]:
    """Canary number i, as one item of a batch like that. Numbers from 1,000,000 on are never planted."""
    random = generator(seed, 77, number)
    key = KEYS[spec.modality]
    shape = like[key].shape[1:]
    made = {"image": _picture, "audio": _sound, "text": _text, "table": _row}[spec.modality](shape, spec, random)
    item = {key: made.to(like[key].dtype)}
    if "label" in like:
        label = torch.tensor(label_of(spec, seed, number))
        item["label"] = label
        if key == "table":
            item[key][int(spec.extra["target"])] = label
    for name in ("weight", "document"):
        if name in like:
            item[name] = torch.ones_like(like[name][0])
    return item


def label_of(spec: Spec, seed: int, number: int) -> int:
    return int(torch.randint(max(1, len(spec.classes)), (), generator=generator(seed, 78, number)))


def _picture(shape: torch.Size, spec: Spec, random: torch.Generator) -> Tensor:
    """[C, H, W] a mosaic of 7 by 7 random tones: coarse enough to be learnt, and like nothing else."""
    tiles = torch.rand(1, shape[0], 7, 7, generator=random)
    return F.interpolate(tiles, size=tuple(shape[1:]))[0] * 2 - 1


def _sound(shape: torch.Size, spec: Spec, random: torch.Generator) -> Tensor:
    """[1, N] twelve tones of random pitch, one after another."""
    notes = (torch.rand(12, generator=random) * 4).exp2() * 110  # Hz
    pitch = F.interpolate(notes[None, None], size=shape[-1])[0, 0]
    return 0.3 * torch.sin(2 * torch.pi * torch.cumsum(pitch / float(spec.extra["rate"]), 0)).expand(shape)


def _row(shape: torch.Size, spec: Spec, random: torch.Generator) -> Tensor:
    """[C] a row of nobody."""
    return made_up(1, spec, random)[0]


def _text(shape: torch.Size, spec: Spec, random: torch.Generator) -> Tensor:
    """[T + 1] random tokens."""
    return torch.randint(int(spec.extra["vocabulary"]), tuple(shape), generator=random)
