"""What near is: distances to the nearest training item, and the same over what is usual there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genloom.core import generator
from genloom.errors import UserError
from genloom.measure import some_rows
from genloom.metrics.distribution import nearest

SAME = 1e-4  # of the length of a row of numbers: items nearer than this are one item
NEIGHBOURS = 5  # of a training item, among which another one is looked for that is not the same again
MOST = 320  # where all of these are, of so many
PLANE = 64  # dimensions


class View(NamedTuple):
    """How far each sample [n] is from its nearest training item, which that is [n], and how far others are [m] that it never saw."""

    name: str
    made: Tensor
    rows: Tensor
    held: Tensor

    def copies(self) -> Tensor:
        """[n] bool."""
        return self.made < self.limit()

    def limit(self) -> float:
        """The least distance of others that have any; 0 where none has, below which nothing is."""
        far = self.held[self.held.isfinite()]
        return float(far.min()) if len(far) else 0.0


class Apart(NamedTuple):
    """Distances [n] to the nearest training item, its numbers [n] in a Space, and the distances over that item's own to its
    nearest other one [n]: a copy of a rare item may be farther than a common one's neighbours are, and nearer than its own."""

    distances: Tensor
    items: Tensor
    relative: Tensor


class Space:
    """Training items as rows [N, d], in which near is measured; `rows` [N] are their numbers in the data."""

    def __init__(self, name: str, known: Tensor, rows: np.ndarray):
        self.name, self.known, self.rows = name, known, torch.from_numpy(rows)
        self.same = SAME * float(known.double().square().sum(1).mean().sqrt())

    def apart(self, x: Tensor) -> Apart:
        """Of others [n, d]."""
        distances, items = (v[:, 0] for v in nearest(x, self.known))
        return self._relative(distances, items, torch.full_like(items, -1))

    def holds(self, x: Tensor, but: Tensor | None = None) -> Tensor:
        """[n] bool: which of others [n, d] are training items again, or of training items of these numbers [n] stand twice.

        Looked for in a plane of few dimensions, in which what is near stays near, and then verified.
        """
        plane = torch.eye(x.shape[1])
        if x.shape[1] > PLANE:
            plane = torch.linalg.qr(torch.randn(x.shape[1], PLANE, generator=generator(0, 0)))[0]
        plane = plane.to(x)
        found = nearest(x @ plane, self.known @ plane, 1 if but is None else min(2, len(self.known)))[1]
        same = torch.stack([(x - self.known[f]).norm(dim=1) <= self.same for f in found.T], 1)
        return (same if but is None else same & (self.rows[found] != but[:, None])).any(1)

    def new(self, apart: Apart) -> Apart:
        """Those that are no training item again: beside such a one nothing would be near. Raises UserError where none is left."""
        new = apart.distances > self.same
        if not new.any():
            raise UserError("Every held-out item is a training item too: give --holdout others.")
        return Apart(*(v[new] for v in apart))

    def among_themselves(self, most: int, seed: int) -> Apart:
        """Of some of the training items, each as if it were not there."""
        own = torch.from_numpy(some_rows(len(self.known), most, seed))
        return self._relative(*self._others(own, own), own)

    def views(self, made: Apart, held: Apart) -> list[View]:
        """By distance, and by distance over what is usual there."""
        rows = self.rows[made.items]
        pairs = [(self.name, made.distances, held.distances), (f"{self.name}, relative", made.relative, held.relative)]
        return [View(name, mine, rows, theirs) for name, mine, theirs in pairs]

    def _relative(self, distances: Tensor, items: Tensor, but: Tensor) -> Apart:
        usual = self._others(items, but)[0]
        return Apart(distances, items, torch.where(usual.isfinite(), distances / usual, torch.inf))

    def _others(self, items: Tensor, but: Tensor) -> tuple[Tensor, Tensor]:
        """How far the nearest training item of each is that is neither the same again nor `but` (-1: none) again, infinitely where
        there is none among MOST; and which that is."""
        far, other = torch.full(items.shape, torch.inf, dtype=torch.float64), items.clone()
        left, most = torch.arange(len(items)), min(MOST, len(self.known))
        for k in (min(NEIGHBOURS, most), most):
            distances, found = nearest(self.known[items[left]], self.known, k)
            wrong = (distances <= self.same) | (found == items[left, None]) | self._again(but[left], found)
            far[left], place = distances.masked_fill(wrong, torch.inf).min(1)
            other[left] = found.gather(1, place[:, None])[:, 0]
            left = left[far[left].isinf()]
            if not len(left):
                break
        return far, other

    def _again(self, items: Tensor, found: Tensor) -> Tensor:
        """[n, k] bool: whether those found [n, k] are the items [n], or the same again; -1 is none."""
        same = torch.stack([(self.known[items] - self.known[f]).norm(dim=1) <= self.same for f in found.T], 1)
        return (found == items[:, None]) | (same & (items >= 0)[:, None])
