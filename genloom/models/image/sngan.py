"""SNGAN: a residual GAN whose discriminator is held to slope 1 by spectral normalisation."""

from __future__ import annotations

from genloom.core import Card, Recipe, Result, Spec, register
from genloom.models.image.biggan import BigGAN


@register("sngan")
class SNGAN(BigGAN):
    """BigGAN's residual networks as they were before it: spectral normalisation in the discriminator alone.

    With classes each batch normalisation has an embedding of its own, and the discriminator projects (Miyato & Koyama
    2018); without, `--model.no-conditional`, both are plain.
    """

    card = Card(
        paper="Spectral Normalization for Generative Adversarial Networks",
        authors="Miyato, Kataoka, Koyama, Yoshida",
        year=2018,
        url="https://arxiv.org/abs/1802.05957",
        summary="Each weight of the discriminator over its largest singular value: stable at next to no cost.",
        changes="Labelled data get the conditional form of cGANs with Projection Discriminator (Miyato & Koyama 2018). "
        "Residual blocks of the discriminator are as wide inside as at their end. Any size divisible by 4. Weights "
        "begin orthogonal, not Xavier's, so that the discriminator is heard from the first step. A running average of the "
        "generator makes the samples.",
        results=(
            Result("Inception score", 8.22, "CIFAR-10, unsupervised, residual, hinge", "table 2"),
            Result("FID", 21.7, "CIFAR-10, unsupervised, residual, hinge", "table 2"),
        ),
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=16, model={"width": 4, "latent": 8, "critic_width": 4, "critic_steps": 1}),
        "cpu": Recipe(
            minutes=3,
            batch_size=64,
            lr=1e-3,
            betas=(0.0, 0.99),
            decay=0.5,
            model={"width": 8, "latent": 64, "critic_width": 8, "critic_steps": 2},
        ),
        "default": Recipe(
            steps=100_000, batch_size=64, betas=(0.0, 0.9), ema=0.9999, decay=0.3, model={"critic_steps": 2}
        ),
        "paper": Recipe(steps=500_000, batch_size=64, betas=(0.0, 0.9), ema=0.0, decay=1.0),
    }

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int = 128,
        width: int = 64,
        critic_width: int = 32,
        critic_steps: int = 5,
        conditional: bool = True,
        augment: str = "none",
    ):
        super().__init__(
            spec,
            latent=latent,
            width=width,
            critic_width=critic_width,
            attention="none",
            shared=0,
            hierarchical=False,
            spectral=False,
            orthogonal=0.0,
            critic_steps=critic_steps,
            generator_rate=1.0,
            conditional=conditional,
            augment=augment,
        )
