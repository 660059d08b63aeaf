"""A real picture in a StyleGAN: the styles that paint it, found by descent (Karras et al. 2020, section 5 and appendix D)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genloom.core import generator
from genloom.errors import UserError, unknown
from genloom.latents.space import Styles
from genloom.metrics.perceptual import likeness

SPACES = ("w", "w+")
DRAWN = 10_000  # latents that the mean style is of
RATE, RISE, FALL = 0.1, 0.05, 0.25  # learning rate; shares of the steps over which it rises and falls
NOISE, NOISY = 0.05, 0.75  # deviation of the noise on styles, in that of styles; share of the steps that have some
SMOOTH = 1e5  # weight of the noise maps' regularisation
FRAMES = 48  # of the film


@dataclass(frozen=True)
class Projection:
    """Styles [L, W], the noise maps that go with them, the picture [C, H, W], [N, C, H, W] on the way, and distances."""

    styles: Tensor
    maps: dict[str, Tensor]
    picture: Tensor
    film: Tensor
    report: dict[str, Any]


def project(
    space: Styles,
    target: Tensor,
    *,
    kind: str = "w",
    steps: int = 500,
    seed: int = 0,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Projection:
    """The styles that paint a picture [C, H, W] best: one for all layers (`w`) or one a layer (`w+`).

    Starts from the mean style; noise on the styles fades while the descent goes on, and the synthesis' noise maps, where
    it has any, are found too, kept free of structure. `track` wraps the steps, to show them.
    Raises UserError for another space or no steps.
    """
    if kind not in SPACES:
        raise unknown("space", kind, SPACES)
    if steps < 1:
        raise UserError(f"--steps is {steps}: take 1 or more, 500 is usual.")
    device = space.model.device
    target = target.to(device)[None]
    measure, apart = likeness(target)
    mean, spread = centre(space, seed)
    w = mean.expand(1, space.layers if kind == "w+" else 1, -1).clone()
    maps = {k: v.clone() for k, v in space.model.generator.synthesis.named_buffers() if k.endswith("noise_const")}
    stream = generator(seed, 1)
    adam = Adam([w, *maps.values()])
    frames: list[Tensor] = []
    filmed = {round(i * (steps - 1) / (FRAMES - 1)) for i in range(FRAMES)}

    def painted(styles: Tensor) -> Tensor:
        return space.synthesise(styles.expand(-1, space.layers, -1), maps)

    with torch.no_grad():
        first = painted(w)
    for i in track(range(steps)):
        t = (i + 0.5) / steps
        strength = NOISE * spread * max(0.0, 1 - t / NOISY) ** 2
        noise = torch.randn(w.shape, generator=stream).to(device)
        variables = [v.requires_grad_() for v in (w, *maps.values())]
        image = painted(w + strength * noise)
        loss = apart(image).sum() + SMOOTH * structure(maps.values())
        slopes = torch.autograd.grad(loss, variables)
        adam.descend(slopes, RATE * ramp(t))
        for v in maps.values():
            v.sub_(v.mean()).mul_(v.square().mean().rsqrt())
        if i in filmed:
            frames.append(image.detach())
    with torch.no_grad():
        last = painted(w)
        distances = [float(apart(x)) for x in (first, last)]
        errors = [float((x.clamp(-1, 1) - target).square().mean().sqrt()) * 127.5 for x in (first, last)]
    report = {
        "space": kind,
        "steps": steps,
        "seed": seed,
        "measure": measure,
        "distance": {"mean picture": distances[0], "projected": distances[1]},
        "error in grey levels of 255": {"mean picture": errors[0], "projected": errors[1]},
        "noise maps": len(maps),
    }
    film = torch.cat([torch.cat([target.expand_as(x), x.clamp(-1, 1)], 3) for x in [first, *frames, last]])
    styles = w.detach()[0].expand(space.layers, -1).clone()
    return Projection(styles, {k: v.detach() for k, v in maps.items()}, last[0].clamp(-1, 1).cpu(), film.cpu(), report)


@torch.no_grad()
def centre(space: Styles, seed: int) -> tuple[Tensor, float]:
    """The mean style [W] and the root mean square distance from it, of the class asked for or of all."""
    ws = cloud(space, DRAWN, seed)
    mean = ws.mean(0)
    return mean, float((ws - mean).square().sum(1).mean().sqrt())


@torch.no_grad()
def cloud(space: Styles, n: int, seed: int) -> Tensor:
    """[n, W] styles of random latents, before any truncation."""
    model, label = space.model, space.conditions.get("label")
    z = torch.randn(n, model.latent, generator=generator(seed, 0)).to(model.device)
    return model.generator.mapping(z, model.weights(model.wanted(n, label, 0)))


def ramp(t: float) -> float:
    """The learning rate's share at t in [0, 1]: up in a line, down along a cosine."""
    return min(1.0, t / RISE) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / FALL)))


def structure(maps: Iterable[Tensor]) -> Tensor:
    """Σ of squared correlations of noise maps [H, W] with themselves one pixel on, at sizes halved down to 8: appendix D."""
    total = torch.zeros(())
    for v in maps:
        v = v[None, None]
        while True:
            for axis in (2, 3):
                total = total.to(v) + (v * v.roll(1, axis)).mean().square()
            if min(v.shape[2:]) <= 8:
                break
            v = 2 * F.avg_pool2d(v, 2)  # keeps the variance at one
    return total


class Adam:
    """Adam (Kingma & Ba 2015) on a few tensors: the loop's own optimiser moves models, not what goes into them."""

    def __init__(self, values: list[Tensor]):
        self.values, self.count = values, 0
        self.means, self.squares = ([torch.zeros_like(v) for v in values] for _ in range(2))

    @torch.no_grad()
    def descend(self, slopes: tuple[Tensor, ...], rate: float, a: float = 0.9, b: float = 0.999) -> None:
        self.count += 1
        for v, g, m, s in zip(self.values, slopes, self.means, self.squares, strict=True):
            m.lerp_(g, 1 - a)
            s.lerp_(g.square(), 1 - b)
            v.requires_grad_(False)
            v.sub_(rate * (m / (1 - a**self.count)) / ((s / (1 - b**self.count)).sqrt() + 1e-8))


def load_styles(path: Path, space: Styles) -> tuple[Tensor, dict[str, Tensor]]:
    """Styles [1, L, W] and noise maps that a projection wrote. Raises UserError when they are not of this model."""
    if not path.is_file():
        raise UserError(f"There is no file '{path}': `genloom project` writes w.safetensors.")
    try:
        with safe_open(path, framework="pt", device=str(space.model.device)) as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"'{path}' is not a whole safetensors file ({error}): project the picture again.") from None
    w, maps = tensors.get("w"), {k[6:]: v for k, v in tensors.items() if k.startswith("noise.")}
    buffers = dict(space.model.generator.synthesis.named_buffers())
    fits = all(k in buffers and buffers[k].shape == v.shape for k, v in maps.items())
    shape = (space.layers, len(space.model.generator.mapping.w_avg))
    if w is None or w.shape != shape or not fits:
        raise UserError(
            f"'{path}' holds no styles of this model, which are {shape[0]}x{shape[1]}: project with this run."
        )
    return w[None], maps
