"""The two sides of an audit: what a run was trained on, and what it was not; and whether both are still as they were."""

from __future__ import annotations

from copy import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genloom import seal
from genloom.core import Batch, Spec
from genloom.data.base import Dataset
from genloom.data.canaries import planted
from genloom.errors import UserError
from genloom.measure import open_like, own_data
from genloom.run import Run


def sides(
    run: Run, data: str | Path | Dataset | None, holdout: str | Path | Dataset | None
) -> tuple[Dataset, Dataset | None]:
    """What it was trained on, and what it was not. Raises UserError where the first cannot be had."""
    own, lost = (data, "") if isinstance(data, Dataset) else own_data(run, data)
    if own is None:
        raise UserError(
            f"An audit compares with the training data: where that has moved give its place as --data. {lost}"
        )
    whole = {} if run.spec.modality == "image" else {"held_out": 0}
    given = open_like(run, holdout, **whole) if isinstance(holdout, str | Path) else holdout
    if given is None:
        given = own.held_out()
    elif given.fingerprint == own.fingerprint:
        raise UserError(f"'{holdout}' is what the run was trained on: give --holdout data that it never saw.")
    if given is not None and run.spec.classes and given.spec.classes != run.spec.classes:
        given = Renamed(given, run.spec)
    return planted(own.still(), run.info["data"].get("canaries")), None if given is None else given.still()


def altered(run: Run, train: Dataset) -> list[str]:
    """In which ways the run and its data are not what they were, so that an audit may speak of others."""
    sealed = (run.folder / seal.FILE).is_file()
    found = [f"{s} What is audited may not be what was trained." for s in (seal.verify(run.folder) if sealed else [])]
    if train.fingerprint != run.info["data"].get("fingerprint"):
        found.append(
            "The data is not as it was at the training (its files have other names, sizes or times, or it is other data): what "
            "is said of training items may be of some that were none."
        )
    return found


class Renamed(Dataset):
    """Data with the class numbers of another Spec, by the names of the classes; without labels where one is not there."""

    def __init__(self, data: Dataset, spec: Spec):
        self.data, self.name, self.fingerprint, self.summary = data, data.name, data.fingerprint, data.summary
        self.slow, self.unit = data.slow, data.unit
        names = data.spec.classes
        self.known = bool(names) and set(names) <= set(spec.classes)
        self.spec = Spec(data.spec.modality, data.spec.shape, spec.classes if self.known else (), data.spec.extra)
        self.numbers = torch.tensor([spec.classes.index(n) for n in names] if self.known else [0])

    def __len__(self) -> int:
        return len(self.data)

    def still(self) -> Dataset:
        found = copy(self)
        found.data = self.data.still()
        return found

    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        batch = self.data.batch(indices, seed=seed)
        if "label" in batch:
            label = batch.pop("label")
            return batch | ({"label": self.numbers[label]} if self.known else {})
        return batch

    def labels(self) -> Tensor | None:
        labels = self.data.labels()
        return self.numbers[labels] if labels is not None and self.known else None
