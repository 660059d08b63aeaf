"""WGAN-GP: a critic held near slope 1, five of its steps to one of the generator."""

from __future__ import annotations

from torch import Tensor

from genloom import parallel
from genloom.core import Card, Phase, Recipe, Result, Spec, register
from genloom.models.image.dcgan import Generator, plain_discriminator
from genloom.objectives.adversarial import Adversarial, lipschitz_penalty


@register("wgan_gp")
class WGANGP(Adversarial):
    """DCGAN's networks without normalisation in the critic, the Wasserstein loss and the gradient penalty."""

    card = Card(
        paper="Improved Training of Wasserstein GANs",
        authors="Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville",
        year=2017,
        url="https://arxiv.org/abs/1704.00028",
        summary="The critic estimates the distance between real and made pictures, and is worth following all the way.",
        changes="DCGAN's 4x4 convolutions for the paper's 5x5; a running average of the generator makes the samples. "
        "The cpu recipe takes two critic steps to one of the generator, where the paper takes five.",
        results=(Result("Inception score", 7.86, "CIFAR-10, unsupervised", "table 3"),),
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=16, model={"width": 8, "latent": 8}),
        "cpu": Recipe(
            minutes=3, batch_size=64, lr=2e-3, betas=(0.0, 0.99), decay=0.8, model={"width": 24, "critic_steps": 2}
        ),
        "default": Recipe(steps=100_000, batch_size=64, lr=2e-4, betas=(0.0, 0.9), decay=0.3),
        "paper": Recipe(steps=1_000_000, batch_size=64, lr=1e-4, betas=(0.0, 0.9), ema=0.0),
    }

    def __init__(self, spec: Spec, *, latent: int = 128, width: int = 64, penalty: float = 10.0, critic_steps: int = 5):
        super().__init__(spec, latent=latent, objective="wasserstein")
        self.penalty, self.critic_steps = penalty, critic_steps
        self.generator = Generator(latent, spec.shape, width)
        self.discriminator = plain_discriminator(spec.shape, width)

    def phases(self) -> list[Phase]:
        return [Phase("critic", ("discriminator",)), Phase("generator", ("generator",), every=self.critic_steps)]

    def critic_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        fake = self.fakes(latents)
        mix = parallel.rand(len(real), device=real.device)
        return {
            "critic": self.objective.critic(*self.score(real, fake)),
            "penalty": self.penalty * lipschitz_penalty(self.discriminator, real, fake, mix),
        }
