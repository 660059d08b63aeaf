"""How the StyleGANs train and sample: lazy R1, path length, style mixing, truncation. Their networks are the models'."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from genloom import parallel
from genloom.core import Batch, Phase, Spec
from genloom.errors import UserError
from genloom.nn.style_generator import Generator
from genloom.objectives.adversarial import Conditional, score_and_slope


class StyleBased(Conditional):
    """A GAN whose generator maps latents to styles and paints from them; logistic loss, R1 every 16 steps.

    `gamma` 0 is the authors' guess, 0.0002 · size² / 32; `path_length` weighs path length regularisation every 4 steps,
    `mixing` is the probability of style mixing.
    """

    together = False  # the batch's deviation would compare reals with fakes
    conditions = ("label", "truncation", "cutoff")
    generator: Generator
    path_mean: Tensor

    def __init__(
        self,
        spec: Spec,
        latent: int,
        conditional: bool,
        augment: str,
        gamma: float,
        mixing: float = 0.0,
        path_length: float = 0.0,
    ):
        super().__init__(spec, latent=latent, objective="bce", conditional=conditional, augment=augment)
        self.r1 = gamma or 0.0002 * spec.shape[-1] ** 2 / 32
        self.path_length, self.mixing = path_length, mixing
        self.register_buffer("path_mean", torch.zeros(()))

    def phases(self) -> list[Phase]:
        """Lazy regularisation: a phase that runs every k-th step has k times the weight (Karras et al. 2020, section 3.1)."""
        g, d = ("generator",), ("discriminator",)
        path = [Phase("path_length", g, every=4, lr=4 / 5)] if self.path_length else []
        return [
            Phase("generator", g, lr=4 / 5 if path else 1.0),
            *path,
            Phase("discriminator", d, lr=16 / 17),
            Phase("r1", d, every=16, lr=16 / 17),
        ]

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        if phase == "r1":
            labels = self.labels(batch)
            _, slope = score_and_slope(lambda x: self.judge(x, labels), batch["image"])
            return {"r1": 16 * 0.5 * self.r1 * slope}
        if phase == "path_length":
            half = {k: v[: (len(v) + 1) // 2] for k, v in batch.items()}
            return {"path_length": 4 * self.path_length * self.path_term(len(half["image"]), self.labels(half)).mean()}
        return super().loss(batch, phase)

    def path_term(self, n: int, labels: Tensor | None) -> Tensor:
        """(‖Jᵀ y‖ - a)² [n], a the running mean: Karras et al. 2020, eq. 4."""
        ws = self.mixed(self.latents(n), self.weights(labels))
        y = self.randn(n, *self.spec.shape) / math.sqrt(math.prod(self.spec.shape[1:]))
        slope = torch.func.grad(lambda w: (self.paint(w) * y).sum())(ws)  # [n, L, W]
        lengths = slope.square().sum(2).mean(1).sqrt()
        mean = self.path_mean.lerp(parallel.mean(lengths.mean()), 0.01)
        self.path_mean.copy_(mean.detach())
        return (lengths - mean).square()

    def mixed(self, latents: Tensor, classes: Tensor | None) -> Tensor:
        """[B, L, W]: with probability `mixing` another latent's styles from a random layer on."""
        ws = self.generator.styles(latents, classes)
        if self.mixing and float(torch.rand(())) < self.mixing:
            layer = int(torch.randint(1, self.generator.layers, ()))
            other = self.generator.styles(self.latents(len(latents)), classes)
            ws = torch.cat([ws[:, :layer], other[:, layer:]], 1)
        return ws

    def make(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.paint(self.mixed(latents, self.weights(labels)))

    def paint(self, ws: Tensor) -> Tensor:
        """Images [B, C, H, W] of styles [B, L, W] in training: with fresh noise where a synthesis has noise."""
        return self.generator.synthesis(ws, noise="random")

    def weights(self, labels: Tensor | None) -> Tensor | None:
        """Labels [B], or weights of classes [B, K], as weights."""
        if labels is None or labels.is_floating_point():
            return labels
        return F.one_hot(labels, self.classes).float()

    def logits(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().logits(images, self.weights(labels))

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        label: int | Tensor | None = None,
        truncation: float = 1.0,
        cutoff: int | None = None,
    ) -> Tensor:
        """[n, C, H, W] in [-1, 1]. `truncation` ψ in [-1, 1.5] draws styles to their mean, in the first `cutoff` layers.

        Raises UserError for an unknown class and for ψ or a cutoff out of range.
        """
        ws = self.item_styles(n, seed=seed, start=start, label=label, truncation=truncation, cutoff=cutoff)
        return self.generator.synthesis(ws).float().clamp(-1, 1)

    def item_styles(
        self,
        n: int,
        *,
        seed: int,
        start: int = 0,
        label: int | Tensor | None = None,
        truncation: float = 1.0,
        cutoff: int | None = None,
    ) -> Tensor:
        """[n, L, W]: the styles of those samples."""
        if not -1 <= truncation <= 1.5:
            raise UserError(f"Truncation must lie in [-1, 1.5], not {truncation:g}: 0.7 is usual, 1 is none.")
        layers = self.generator.layers
        if cutoff is not None and not 0 <= cutoff <= layers:
            raise UserError(f"The cutoff must lie in 0 to {layers}, the layers of this model, not {cutoff}.")
        z = self.item_noise(n, self.latent, seed=seed, start=start)
        classes = self.weights(self.wanted(n, label, start))
        return self.generator.styles(z, classes, truncation, cutoff)
