"""What every data set gives, whatever it is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from torch import Tensor

from genloom.core import Batch, Spec
from genloom.errors import UserError, unknown


@dataclass(eq=False, repr=False, kw_only=True)
class Dataset(ABC):
    """Items by number, as training batches.

    `spec` says what one item is; `fingerprint` (hex) is the same when the same items come out; `name` is for people;
    `summary` is JSON-able: items, classes, skipped files, what was decided and why. `slow` data is fetched ahead.
    """

    name: str
    spec: Spec
    fingerprint: str
    summary: dict[str, Any]
    test: Callable[[], Dataset | None] | None = None  # gives what is held out, where there is any
    slow = False
    unit = "item"  # what private training protects one of

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, indices: np.ndarray, *, seed: int = 0) -> Batch:
        """The items of those numbers [B] as CPU tensors; augmentation of an item depends on (seed, number) alone."""

    def labels(self) -> Tensor | None:
        """i64 [N], the class of every item; None when the data has no classes."""
        return None

    def still(self) -> Dataset:
        """The same data, no part of which is in one item now and in another then: as private training needs it."""
        return self

    def held_out(self) -> Dataset | None:
        """The same kind of items kept out of training (a test split); None when there are none."""
        return self.test() if self.test else None


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """What a person should know of the data before training on it: what was left out, and what was decided."""
    skipped = summary.get("skipped") or {"count": 0}
    left = [f"{name} ({why})" for name, why in list(skipped.get("files", {}).items())[:3]]
    more = " and more" if skipped["count"] > len(left) else ""
    found = [f"Left out, for they cannot be read: {', '.join(left)}{more}; {skipped['count']} in all."] if left else []
    return [*found, *summary.get("notes", ())]


@dataclass(frozen=True)
class DataOptions:
    """What the dataclasses of options of each kind of data share."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Options by name. Raises UserError for an unknown one, with the nearest."""
        known = [f.name for f in fields(cls)]
        for name in given:
            if name not in known:
                raise unknown("option", name, known)
        return cls(**given)

    def check(self, *rows: tuple[str, bool, str]) -> None:
        """Raises UserError for the first (name, whether its value fits, what is wanted) that does not fit."""
        for name, fits, wanted in rows:
            if not fits:
                raise UserError(f"{name} must be {wanted}, not {getattr(self, name)!r}.")
