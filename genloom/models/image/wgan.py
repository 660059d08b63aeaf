"""WGAN: the critic's weights are clipped, so that its slopes are bounded and its loss is a distance."""

from __future__ import annotations

import torch

from genloom.core import Card, Phase, Recipe, Spec, register
from genloom.models.image.dcgan import DCGAN


@register("wgan")
class WGAN(DCGAN):
    """DCGAN's networks, the Wasserstein loss, and every weight of the critic kept within [-clip, clip]."""

    card = Card(
        paper="Wasserstein GAN",
        authors="Arjovsky, Chintala, Bottou",
        year=2017,
        url="https://arxiv.org/abs/1701.07875",
        summary="The critic's loss estimates how far made pictures are from real ones; clipped weights keep it honest.",
        changes="Adam without a first moment for RMSprop. The cpu recipe takes two critic steps to one of the generator, "
        "where the paper takes five. A running average of the generator makes the samples.",
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=16, model={"width": 8, "latent": 8}),
        "cpu": Recipe(
            minutes=3,
            batch_size=64,
            lr=1e-3,
            betas=(0.0, 0.99),
            decay=0.8,
            model={"width": 32, "critic_steps": 2, "clip": 0.05},
        ),
        "default": Recipe(steps=100_000, batch_size=64, lr=2e-4, betas=(0.0, 0.99), decay=0.3),
        "paper": Recipe(steps=500_000, batch_size=64, lr=5e-5, betas=(0.0, 0.99), ema=0.0),
    }

    def __init__(self, spec: Spec, *, latent: int = 100, width: int = 64, clip: float = 0.01, critic_steps: int = 5):
        super().__init__(spec, latent=latent, width=width, objective="wasserstein")
        self.clip, self.critic_steps = clip, critic_steps
        self.clip_critic()

    def phases(self) -> list[Phase]:
        """The generator first: the critic that it follows is then always the clipped one."""
        return [Phase("generator", ("generator",), every=self.critic_steps), Phase("critic", ("discriminator",))]

    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        self.clip_critic()

    @torch.no_grad()
    def clip_critic(self) -> None:
        """Algorithm 1, line 7."""
        for weight in self.discriminator.parameters():
            weight.clamp_(-self.clip, self.clip)
