"""SAGAN: self-attention in both networks of a residual GAN."""

from __future__ import annotations

from genloom.core import Card, Recipe, Result, Spec, register
from genloom.models.image.biggan import BigGAN


@register("sagan")
class SAGAN(BigGAN):
    """BigGAN's residual networks with attention, spectral normalisation on both sides, and two learning rates.

    `attention`: sizes after whose block there is self-attention, "32_64", "none", or "auto": 64 where there is one.
    """

    card = Card(
        paper="Self-Attention Generative Adversarial Networks",
        authors="Zhang, Goodfellow, Metaxas, Odena",
        year=2019,
        url="https://arxiv.org/abs/1805.08318",
        summary="Far places agree: attention beside convolution, in generator and discriminator.",
        changes="Any size divisible by 4. Weights begin orthogonal, not Xavier's. A running average of the generator makes the samples.",
        results=(
            Result("FID", 18.65, "ImageNet 128x128", "table 2"),
            Result("Inception score", 52.52, "ImageNet 128x128", "table 2"),
        ),
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=16, model={"width": 4, "latent": 8, "attention": "half"}),
        "cpu": Recipe(
            minutes=3,
            batch_size=64,
            lr=5e-4,
            betas=(0.0, 0.99),
            decay=0.5,
            model={"width": 8, "latent": 64, "attention": "half", "generator_rate": 0.5},
        ),
        "default": Recipe(steps=100_000, batch_size=64, lr=4e-4, betas=(0.0, 0.9), ema=0.9999, decay=0.3),
        "paper": Recipe(steps=1_000_000, batch_size=256, lr=4e-4, betas=(0.0, 0.9), ema=0.9999),
    }

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int = 128,
        width: int = 64,
        critic_width: int = 0,
        attention: str = "auto",
        critic_steps: int = 1,
        generator_rate: float = 0.25,
        conditional: bool = True,
        augment: str = "none",
    ):
        super().__init__(
            spec,
            latent=latent,
            width=width,
            critic_width=critic_width,
            attention=attention,
            shared=0,
            hierarchical=False,
            orthogonal=0.0,
            critic_steps=critic_steps,
            generator_rate=generator_rate,
            conditional=conditional,
            augment=augment,
        )
