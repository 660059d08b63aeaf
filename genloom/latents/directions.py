"""Directions that mean something, found without labels: SeFa's closed form and GANSpace's principal components.

In styles for the StyleGANs; for other models that start from a vector of noise, in what their first layer sees of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genloom import generate
from genloom.errors import UserError, unknown
from genloom.latents.projection import DRAWN, cloud
from genloom.latents.space import Latents, Points, Space, Styles, standing_in
from genloom.machine import in_double
from genloom.nn.style import EqualLinear

METHODS = ("sefa", "ganspace")


@dataclass(frozen=True)
class Directions:
    """Orthonormal `vectors` [D, W], the most telling first; `deviations` [D] of the model's own points along them.

    `shares` [D]: of the squared change of what the layers see (sefa), or of the points' variance (ganspace).
    """

    method: str
    vectors: Tensor
    deviations: Tensor
    shares: Tensor
    layers: list[int]

    def sliders(self, strength: float) -> list[dict[str, Any]]:
        """One a direction: its name, its range in deviations, and what it explains."""
        explains = "variance_explained" if self.method == "ganspace" else "change_explained"
        return [
            {
                "name": f"{self.method} {i}",
                "range": [-strength, strength],
                "deviation": float(self.deviations[i]),
                explains: float(self.shares[i]),
                "layers": self.layers,
            }
            for i in range(len(self.vectors))
        ]


def find(space: Space, method: str, count: int, layers: Sequence[int] | None = None, seed: int = 0) -> Directions:
    """The first `count` directions, of these layers (all without).

    sefa: eigenvectors of AᵀA, A the affine weights of the layers one above the other (Shen & Zhou 2021, eq. 6).
    ganspace: principal components of the styles (Härkönen et al. 2020, section 3.1); latents are normal in every
    direction alike, and the components of a first layer's outputs, taken back to them, are sefa's directions there.
    Raises UserError for an unknown method, a count the model does not have, or a model without a vector of noise.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if isinstance(space, Styles):
        chosen = list(range(space.layers)) if layers is None else list(layers)
        points = cloud(space, DRAWN, seed)
        around = covariance(points)
        matrix = around if method == "ganspace" else gram(torch.cat(affines(space, chosen)))
    else:
        if layers is not None:
            raise UserError(f"'{space.model.name}' has no layers to choose from: only generators with styles have.")
        assert isinstance(space, Latents)
        chosen, matrix = [0], gram(first_layer(space))
        around = torch.eye(len(matrix)).to(matrix)
    width = len(matrix)
    if not 1 <= count <= width:
        raise UserError(f"--directions must lie in 1 to {width}, the dimensions of this model's space, not {count}.")
    values, vectors = torch.linalg.eigh(matrix.double())
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1).T[:count]
    sign = vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()  # eigenvectors have none of their own
    vectors = vectors * sign
    deviations = ((vectors @ around.double()) * vectors).sum(1).clamp_min(0).sqrt()
    shares = values[:count] / values.sum().clamp_min(1e-30)
    vectors, deviations, shares = (x.float().cpu() for x in (vectors, deviations, shares))
    return Directions(method, vectors, deviations, shares, chosen)


def moved(points: Points, found: Directions, which: int, strengths: Tensor) -> Points:
    """[N · S, ...]: each point moved by each strength, in deviations, along one direction in its layers."""
    step = (strengths[:, None] * found.deviations[which] * found.vectors[which]).to(points.values)  # [S, W]
    n, s = len(points), len(strengths)
    values = points.values.repeat_interleave(s, 0)
    if values.ndim == 3:
        values[:, found.layers] += step.repeat(n, 1)[:, None]
    else:
        values += step.repeat(n, 1)
    return Points(values, None if points.labels is None else points.labels.repeat_interleave(s, 0))


def gram(a: Tensor) -> Tensor:
    a = in_double(a)
    return a.T @ a


def covariance(points: Tensor) -> Tensor:
    apart = points - points.mean(0)
    return gram(apart) / len(points)


@torch.no_grad()
def affines(space: Styles, layers: Sequence[int]) -> list[Tensor]:
    """The affine weights [O, W] that read the styles of these layers, as they are used.

    Which reads which the synthesis shows by itself: every layer is given its own number as its style.
    """
    synthesis, found = space.model.generator.synthesis, list[Tensor]()

    def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(module, EqualLinear)
        if round(float(inputs[0][0, 0])) in layers:
            found.append(module.weight * module.gain)

    hooks = [m.register_forward_pre_hook(look) for m in synthesis.modules() if isinstance(m, EqualLinear)]
    width = space.model.generator.mapping.w_avg.shape[0]
    numbers = torch.arange(space.layers, device=space.model.device).float()
    try:
        synthesis(numbers[None, :, None].repeat(1, 1, width))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def first_layer(space: Latents) -> Tensor:
    """[O, Z] of the first layer that sees the noise, found by showing it zero and each unit vector.

    Raises UserError when the noise is not a vector.
    """
    one, model = space.points([0]), space.model
    if one.values.ndim != 2:
        raise UserError(f"'{model.name}' starts from noise as large as the picture: there are no directions in it.")
    z = one.values.shape[1]
    shown = torch.cat([torch.zeros(1, z), torch.eye(z)]).to(one.values)
    found: list[Tensor] = []

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and isinstance(output, Tensor) and len(output) == z + 1:
            change = (output[1:] - output[:1]).flatten(1)
            if bool(change.any()):
                found.append(change.T)

    leaves = [m for m in model.modules() if not list(m.children())]
    hooks = [m.register_forward_hook(look) for m in leaves]
    labels = None if one.labels is None else one.labels.expand(z + 1, *one.labels.shape[1:])
    rows = space.conditions if labels is None else space.conditions | {space.turning: labels}
    try:
        with standing_in(model, lambda own: lambda n, *shape, seed, start, **more: shown[start : start + n]):
            generate.draw(model, z + 1, batch_size=z + 1, precision="fp32", **rows)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise UserError(f"'{model.name}' shows no layer that its latents go into.")
    return found[0]
