"""LSGAN: squared errors for the discriminator's cross-entropy."""

from __future__ import annotations

from genloom.core import Card, Recipe, Spec, register
from genloom.models.image.dcgan import DCGAN


@register("lsgan")
class LSGAN(DCGAN):
    """DCGAN's networks, and logits held to 1 for reals and 0 for fakes: a fake far on the right side still learns."""

    card = Card(
        paper="Least Squares Generative Adversarial Networks",
        authors="Mao, Li, Xie, Lau, Wang, Smolley",
        year=2017,
        url="https://arxiv.org/abs/1611.04076",
        summary="DCGAN with a squared loss, whose slope does not die where the discriminator is sure.",
        changes="DCGAN's networks for the paper's deeper ones, with normal latents of 100; a running average of the "
        "generator makes the samples.",
    )
    recipes = {
        **DCGAN.recipes,
        "paper": Recipe(steps=30_000, batch_size=64, lr=1e-3, betas=(0.5, 0.999), ema=0.0, model={"latent": 1024}),
    }

    def __init__(self, spec: Spec, *, latent: int = 100, width: int = 64):
        super().__init__(spec, latent=latent, width=width, objective="least_squares")
