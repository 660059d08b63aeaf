"""The columns of a table, as networks see them: rows [B, C] of numbers in [-1, 1] and codes, and their one-hot form.

In rows a number that is not given is NaN; what a category may be, none given too, is a code from 0 on (see a table's Spec).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genloom.core import Spec


class Part(NamedTuple):
    """A stretch of the one-hot form: a number (`codes` 0), or the codes of a category or of whether a number is given."""

    column: int
    start: int
    codes: int

    @property
    def span(self) -> slice:
        return slice(self.start, self.start + max(self.codes, 1))


class Columns:
    """`codes` of each column, 0 for a number; which numbers may be `missing`; the `parts` and `width` W of their one-hot form."""

    def __init__(self, spec: Spec):
        told = spec.extra["columns"]
        gaps = [bool(c.get("missing")) for c in told]
        is_category = [c["kind"] == "category" for c in told]
        pairs = list(zip(told, gaps, is_category, strict=True))
        self.codes = [len(c["values"]) + gap if category else 0 for c, gap, category in pairs]
        self.missing = [gap and not category for _, gap, category in pairs]
        self.parts: list[Part] = []
        self.width = 0
        for i, (codes, missing) in enumerate(zip(self.codes, self.missing, strict=True)):
            for size in (*([codes] if codes else [0]), *([2] if missing else [])):
                self.parts.append(Part(i, self.width, size))
                self.width += max(size, 1)
        self.discrete = [part for part in self.parts if part.codes]
        self.count = len(self.codes)

    def code(self, rows: Tensor, part: Part) -> Tensor:
        """[B] i64 the code of rows [B, C] in a discrete part; what is no code is the nearest."""
        own = rows[:, part.column]
        if not self.codes[part.column]:
            return own.isnan().long()
        return own.nan_to_num().round().long().clamp(0, part.codes - 1)

    def one_hot(self, rows: Tensor) -> Tensor:
        """Rows [B, C] -> [B, W]; a number that is not given is 0."""
        made = [
            (self.code(rows, part)[:, None] == torch.arange(part.codes, device=rows.device)).to(rows.dtype)
            if part.codes
            else rows[:, part.column].nan_to_num().clamp(-1, 1)[:, None]
            for part in self.parts
        ]
        return torch.cat(made, 1)

    def rows(self, made: Tensor, chosen: dict[int, Tensor]) -> Tensor:
        """[B, W] numbers, and the code chosen in each discrete part by its start [B] -> rows [B, C]."""
        columns: list[Tensor] = []
        for part in self.parts:
            if not part.codes:
                columns.append(made[:, part.start].clamp(-1, 1))
            elif self.codes[part.column]:
                columns.append(chosen[part.start].to(made.dtype))
            else:
                columns[-1] = torch.where(chosen[part.start].bool(), torch.nan, columns[-1])
        return torch.stack(columns, 1)


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """[...] i64: the code that a number in [0, 1) falls on among the probabilities of logits [..., K]."""
    total = logits.softmax(-1).cumsum(-1)
    return (uniform[..., None] * total[..., -1:] >= total).sum(-1).clamp(max=logits.shape[-1] - 1)


def uniform(normal: Tensor) -> Tensor:
    """Standard normal numbers -> as many in [0, 1): each by its own, so an item's stay its own."""
    return torch.special.ndtr(normal).clamp(0, 1 - 1e-6)


def are_numbers(rows: Tensor, spec: Spec) -> bool:
    """Whether rows [n, C] are what a sound model makes: NaN only where a column's numbers may be missing."""
    may = torch.tensor(Columns(spec).missing, device=rows.device)
    return bool((rows.isfinite() | (rows.isnan() & may)).all())


def made_up(n: int, spec: Spec, stream: torch.Generator | None = None) -> Tensor:
    """Rows [n, C] of nobody: any number, any code, each as likely."""
    codes = torch.tensor(Columns(spec).codes)
    chance = torch.rand(n, len(codes), generator=stream)
    return torch.where(codes > 0, (chance * codes).floor(), 2 * chance - 1)
