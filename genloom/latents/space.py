"""Where a model's pictures come from, as points: latents of any model that samples from noise, styles of the StyleGANs.

A seed stands for one picture, the first that `sample` draws from it. Without a label the classes come in turn by seed.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from genloom import generate
from genloom.core import SEEDS, Model
from genloom.errors import UserError
from genloom.objectives.style import StyleBased

BATCH = 32
Noise = Callable[..., Tensor]  # (n, *shape, seed, start) -> [n, *shape]
MOST = 10_000  # numbers that one list may name


@dataclass(frozen=True)
class Points:
    """Latents [N, ...] or styles [N, L, W]; `labels` [N], or weights of classes [N, K], where painting takes them."""

    values: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Tensor) -> Points:
        return Points(self.values[rows], None if self.labels is None else self.labels[rows])


class Space(ABC):
    """The points of one model under the conditions asked for (a truncation, say)."""

    def __init__(self, model: Model, conditions: dict[str, Any]):
        self.model, self.conditions = model.eval().requires_grad_(False), generate.checked(model, conditions)

    @abstractmethod
    def points(self, seeds: Sequence[int]) -> Points:
        """One point a seed. Raises UserError for a condition that is out of range."""

    @abstractmethod
    def paint(self, points: Points) -> Tensor:
        """[N, C, H, W] in [-1, 1], on the CPU."""

    @abstractmethod
    def between(self, a: Points, b: Points, t: Tensor) -> Points:
        """t [N] of the way from a to b, row by row: a at 0."""


def space_of(model: Model, **conditions: Any) -> Space:
    """The styles of a model that has them, else its latents. Raises UserError for what makes no pictures from noise."""
    if model.spec.modality != "image":
        raise UserError(f"Seeds stand for pictures, and '{model.name}' makes {model.spec.modality}.")
    if "source" in model.conditions:
        raise _without_latents(model)
    return Styles(model, conditions) if isinstance(model, StyleBased) else Latents(model, conditions)


def _without_latents(model: Model) -> UserError:
    return UserError(f"'{model.name}' does not make a picture from one draw of noise: it has no latents.")


def styles_of(model: Model, why: str, **conditions: Any) -> Styles:
    """The styles of a StyleGAN. Raises UserError for any other model: `why` says what for."""
    if not isinstance(model, StyleBased):
        raise UserError(
            f"{why} needs a generator with styles, and '{model.name}' has none: fit stylegan2 or stylegan3."
        )
    return Styles(model, conditions)


class Latents(Space):
    """The noise that `sample` starts from, whatever its shape; the way between two points is an arc (White 2016)."""

    def __init__(self, model: Model, conditions: dict[str, Any]):
        super().__init__(model, conditions)
        classes = getattr(model, "classes", len(model.spec.classes))
        turns = {"label": classes, "code": getattr(model, "codes", 0)}  # what `sample` would draw in turn by itself
        self.turning, self.count = next(((k, n) for k, n in turns.items() if k in model.conditions and n), ("", 0))

    def points(self, seeds: Sequence[int]) -> Points:
        pieces: list[Tensor] = []

        def by_seed(own: Noise) -> Noise:
            def rows(n: int, *shape: int, seed: int, start: int, **more: Any) -> Tensor:
                drawn = [own(1, *shape, seed=s, start=0, **more) for s in seeds[start : start + n]]
                pieces.append(torch.cat(drawn))
                return pieces[-1]

            return rows

        labels = self._labels(seeds)
        with standing_in(self.model, by_seed):
            self._draw(len(seeds), labels)
        if len(pieces) != ceil(len(seeds) / BATCH):
            raise _without_latents(self.model)
        return Points(torch.cat(pieces), labels)

    def paint(self, points: Points) -> Tensor:
        def given(own: Noise) -> Noise:
            return lambda n, *shape, seed, start, **more: points.values[start : start + n]

        with standing_in(self.model, given):
            return self._draw(len(points), points.labels)

    def between(self, a: Points, b: Points, t: Tensor) -> Points:
        values = slerp(a.values.flatten(1), b.values.flatten(1), t.to(a.values)).view_as(a.values)
        if a.labels is None or b.labels is None:
            return Points(values)
        if a.labels.is_floating_point():
            return Points(values, torch.lerp(a.labels, b.labels, t.to(a.labels)[:, None]))
        near = t.to(a.labels.device) < 0.5  # a whole class turns halfway
        return Points(values, torch.where(near, a.labels, b.labels))

    def _labels(self, seeds: Sequence[int]) -> Tensor | None:
        """The class of each seed, as weights where the model blends classes; None where it looks at none."""
        if not self.turning:
            return None
        wanted = self.conditions.get(self.turning)
        labels = torch.tensor([s % self.count for s in seeds]) if wanted is None else torch.as_tensor(wanted)
        if labels.ndim == 2:
            return labels
        if self.turning == "label":
            labels = self.model.item_labels(len(seeds), labels, 0)
        if getattr(self.model, "soft_labels", False):
            return F.one_hot(labels, self.count).float()
        return labels.expand(len(seeds))

    def _draw(self, n: int, labels: Tensor | None) -> Tensor:
        rows = self.conditions if labels is None else self.conditions | {self.turning: labels}
        return torch.as_tensor(generate.draw(self.model, n, batch_size=BATCH, **rows))


class Styles(Space):
    """The styles [L, W] of every layer: the class is already in them, and the way between two is straight.

    `maps` replaces buffers of the synthesis by name: a projected picture's noise.
    """

    model: StyleBased

    def __init__(self, model: StyleBased, conditions: dict[str, Any]):
        super().__init__(model, conditions)
        self.maps: dict[str, Tensor] = {}
        self.layers: int = model.generator.layers

    def points(self, seeds: Sequence[int]) -> Points:
        more = {k: v for k, v in self.conditions.items() if k != "precision"}
        label, count = more.pop("label", None), self.model.classes
        if label is None and count:
            label = torch.tensor([s % count for s in seeds])
        each = self.model.wanted(len(seeds), label, 0)
        labels = [None] * len(seeds) if each is None else each.split(1)
        with torch.inference_mode():
            rows = [self.model.item_styles(1, seed=s, label=one, **more) for s, one in zip(seeds, labels, strict=True)]
            return Points(torch.cat(rows))

    def paint(self, points: Points) -> Tensor:
        precision = generate.drawing_precision(self.model, self.conditions.get("precision", "auto"))
        with torch.inference_mode(), generate.autocast(self.model.device, precision):
            images = [self.synthesise(ws).float().clamp(-1, 1).cpu() for ws in points.values.split(BATCH)]
        return torch.cat(images)

    def synthesise(self, ws: Tensor, maps: dict[str, Tensor] | None = None) -> Tensor:
        """Styles [B, L, W] -> images [B, C, H, W], differentiable in them and in the maps that stand for noise."""
        return functional_call(self.model.generator.synthesis, self.maps if maps is None else maps, (ws,))

    def between(self, a: Points, b: Points, t: Tensor) -> Points:
        return Points(torch.lerp(a.values, b.values, t.to(a.values)[:, None, None]))


# ── what is done with points ─────────────────────────────────────────────────────────────────────────────────────
def walk(space: Space, points: Points, frames: int) -> Points:
    """A closed way through the points, `frames` a leg: frame k · frames is point k."""
    i = torch.arange(len(points)).repeat_interleave(frames)
    t = torch.arange(frames).repeat(len(points)) / frames
    return space.between(points[i], points[(i + 1) % len(points)], t)


def mixed(rows: Points, columns: Points, layers: Sequence[int]) -> Points:
    """[R · C, L, W]: each row's styles, in these layers replaced by each column's (Karras et al. 2019, section 3.1)."""
    ws = rows.values[:, None].repeat(1, len(columns), 1, 1)
    ws[:, :, list(layers)] = columns.values[None, :, list(layers)]
    return Points(ws.flatten(0, 1))


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the arc from a to b [N, D] by t [N]: normal latents keep their length, where a straight way would not."""
    t = t[:, None]
    cosine = F.cosine_similarity(a, b, dim=1)[:, None].clamp(-1, 1)
    angle = cosine.acos()
    arc = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()
    return torch.where(angle.sin() > 1e-4, arc, torch.lerp(a, b, t))


@contextmanager
def standing_in(model: Model, noise: Callable[[Noise], Noise]) -> Iterator[None]:
    """Inside, the model's samples start from this noise, made with the model's own."""
    own = {name: getattr(model, name) for name in ("item_noise", "bounded_noise") if hasattr(model, name)}
    for name, method in own.items():
        setattr(model, name, noise(method))
    try:
        yield
    finally:
        for name in own:
            delattr(model, name)


# ── lists of numbers ─────────────────────────────────────────────────────────────────────────────────────────────
def numbers(name: str, given: str | int | Iterable[int], end: int | None = None) -> list[int]:
    """`3,7,100-120` or a sequence, as a list of numbers; below `end`. Raises UserError for anything else."""
    if isinstance(given, int):
        given = [given]
    if isinstance(given, str):
        parts = [re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip()) for part in given.split(",")]
        spans = [(int(p[1]), int(p[2] or p[1])) for p in parts if p]
        if len(spans) < len(parts) or any(a > b for a, b in spans):
            raise UserError(f"--{name} takes numbers and ranges, such as 3,7,100-120, not '{given}'.")
        given = chain.from_iterable(range(a, b + 1) for a, b in spans)
    found = list(islice(given, MOST + 1))  # of a range, which may be endless, no more than tells that it is too long
    if not found:
        raise UserError(f"--{name} names no number: give some, such as 3,7,100-120.")
    if len(found) > MOST:
        raise UserError(f"--{name} names more than {MOST:,} numbers: take fewer.")
    for i in found:
        if not 0 <= i < (end or SEEDS):
            there = f"0 to {end - 1} in this model" if end else f"0 to {SEEDS - 1}"
            raise UserError(f"--{name} {i} is out of range: there are {there}.")
    return found
