"""DRAGAN: the discriminator is held near slope 1 around the real pictures, where it would be sharpest."""

from __future__ import annotations

from torch import Tensor

from genloom.core import Card, Recipe, Spec, register
from genloom.models.image.dcgan import Generator, plain_discriminator
from genloom.objectives.adversarial import Adversarial, slope_penalty


@register("dragan")
class DRAGAN(Adversarial):
    """DCGAN's networks without normalisation in the discriminator, and λ(‖∇D(x + δ)‖ - 1)² at reals x, δ ~ N(0, noise²)."""

    card = Card(
        paper="On Convergence and Stability of GANs",
        authors="Kodali, Abernethy, Hays, Kira",
        year=2017,
        url="https://arxiv.org/abs/1705.07215",
        summary="The classic GAN loss with a discriminator that may not be steep around real pictures, against mode collapse.",
        changes="Logits are what the slope is of. DCGAN's networks without normalisation in the discriminator; a running "
        "average of the generator makes the samples.",
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=16, model={"width": 8, "latent": 8}),
        "cpu": Recipe(minutes=3, batch_size=64, lr=2e-3, betas=(0.0, 0.99), decay=0.8, model={"width": 24}),
        "default": Recipe(steps=50_000, batch_size=64, betas=(0.5, 0.999), decay=0.3),
        "paper": Recipe(steps=100_000, batch_size=64, lr=1e-4, betas=(0.5, 0.9), ema=0.0),
    }

    def __init__(self, spec: Spec, *, latent: int = 100, width: int = 64, penalty: float = 10.0, noise: float = 0.3):
        super().__init__(spec, latent=latent, objective="bce")
        self.penalty, self.noise = penalty, noise
        self.generator = Generator(latent, spec.shape, width)
        self.discriminator = plain_discriminator(spec.shape, width)

    def critic_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        near = real + self.noise * self.randn(*real.shape)
        return {
            "discriminator": self.objective.critic(*self.score(real, self.fakes(latents))),
            "penalty": self.penalty * slope_penalty(self.judge, near),
        }
