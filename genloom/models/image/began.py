"""BEGAN: the discriminator is an autoencoder, and a balance holds its errors on fakes at a share of those on reals."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Card, Recipe, Spec, register
from genloom.models.image.dcgan import pyramid
from genloom.objectives.adversarial import Adversarial


@register("began")
class BEGAN(Adversarial):
    """Minimise L(x) - k·L(G(z)) against L(G(z)), L(x) = mean |x - D(x)|; k moves so that L(G(z)) = diversity · L(x).

    The logged `convergence` is the paper's measure M = L(x) + |diversity · L(x) - L(G(z))|: it carries no gradient.
    """

    card = Card(
        paper="BEGAN: Boundary Equilibrium Generative Adversarial Networks",
        authors="Berthelot, Schumm, Metz",
        year=2017,
        url="https://arxiv.org/abs/1703.10717",
        summary="An autoencoder judges pictures by how well it redraws them; one number trades variety for quality.",
        changes="Latents are normal, not uniform, and channels do not grow towards coarse scales. "
        "The balance k moves 0.01 a step in the cpu recipe (0.001 in the paper). On digits it drifts to what is easiest to redraw, "
        "the ones. A running average of the generator makes "
        "the samples.",
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=16, model={"width": 8, "latent": 8}),
        "cpu": Recipe(
            minutes=3,
            batch_size=16,
            lr=4e-4,
            betas=(0.5, 0.999),
            decay=0.8,
            model={"width": 16, "latent": 32, "diversity": 0.9, "balance": 0.01},
        ),
        "default": Recipe(steps=100_000, batch_size=32, lr=2e-4, betas=(0.5, 0.999), decay=0.5),
        "paper": Recipe(steps=200_000, batch_size=16, lr=1e-4, betas=(0.5, 0.999), ema=0.0, model={"width": 128}),
    }
    k: Tensor
    errors: Tensor

    def __init__(
        self, spec: Spec, *, latent: int = 64, width: int = 64, diversity: float = 0.5, balance: float = 0.001
    ):
        super().__init__(spec, latent=latent, objective="wasserstein")
        self.diversity, self.balance = diversity, balance
        self.generator = Decoder(latent, spec.shape, width)
        self.discriminator = nn.Sequential(Encoder(latent, spec.shape, width), Decoder(latent, spec.shape, width))
        self.register_buffer("k", torch.zeros(()))
        self.register_buffer("errors", torch.zeros(2))  # the last L(x) and L(G(z)), of the global batch

    def logits(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """-L(x) [B], L(x) the mean absolute error of the autoencoder: what is redrawn well is real."""
        return -(images - self.discriminator(images)).abs().flatten(1).mean(1).float()

    def critic_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        r, f = self.score(real, self.fakes(latents))
        self.note(0, -r)
        return {"real": -r, "fake": self.k * f}

    def generator_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        error = -self.judge(self.make(latents))
        self.note(1, error)
        mine, theirs = self.errors
        return {"generator": error, "convergence": mine + (self.diversity * mine - theirs).abs()}

    def note(self, which: int, error: Tensor) -> None:
        self.errors[which] = parallel.mean(error.detach().mean())

    def sample(self, n: int, *, seed: int = 0, start: int = 0) -> Tensor:
        """[n, C, H, W] in [-1, 1]."""
        return super().sample(n, seed=seed, start=start).clamp(-1, 1)  # tanh would hold an early blank picture for good

    def after_step(self, progress: float) -> None:
        """k <- k + λ(γ·L(x) - L(G(z))), kept in [0, 1]: section 3.4."""
        super().after_step(progress)
        mine, theirs = self.errors
        self.k.add_(self.balance * (self.diversity * mine - theirs)).clamp_(0, 1)


class Decoder(nn.Module):
    """Codes [B, Z] -> images [B, C, H, W], unbounded: two 3x3 convolutions a scale, nearest neighbours between scales."""

    def __init__(self, latent: int, shape: tuple[int, ...], width: int):
        super().__init__()
        height, breadth, widths = pyramid(shape, width)
        self.coarse = (width, height, breadth)
        self.stem = nn.Linear(latent, width * height * breadth)
        layers = pair(width)
        for _ in widths:
            layers += [nn.Upsample(scale_factor=2), *pair(width)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, shape[0], 3, padding=1))

    def forward(self, code: Tensor) -> Tensor:  # [B, Z]
        return self.body(self.stem(code).view(-1, *self.coarse)).float()


class Encoder(nn.Module):
    """Images [B, C, H, W] -> codes [B, Z]: two 3x3 convolutions a scale, the second of them strided."""

    def __init__(self, latent: int, shape: tuple[int, ...], width: int):
        super().__init__()
        height, breadth, widths = pyramid(shape, width)
        layers: list[nn.Module] = [nn.Conv2d(shape[0], width, 3, padding=1), nn.ELU()]
        for _ in widths:
            layers += pair(width, stride=2)
        self.body = nn.Sequential(*layers, *pair(width), nn.Flatten(), nn.Linear(width * height * breadth, latent))

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W]
        return self.body(images)


def pair(width: int, stride: int = 1) -> list[nn.Module]:
    first = nn.Conv2d(width, width, 3, padding=1)
    return [first, nn.ELU(), nn.Conv2d(width, width, 3, stride, padding=1), nn.ELU()]
