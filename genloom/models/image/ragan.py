"""RaGAN: the discriminator says how much more real a picture is than the average of the other kind."""

from __future__ import annotations

from genloom.core import Card, Recipe, Spec, register
from genloom.models.image.dcgan import DCGAN


@register("ragan")
class RaGAN(DCGAN):
    """DCGAN's networks and the relativistic average loss: making fakes real makes reals less so, for both players."""

    card = Card(
        paper="The relativistic discriminator: a key element missing from standard GAN",
        authors="Jolicoeur-Martineau",
        year=2018,
        url="https://arxiv.org/abs/1807.00734",
        summary="DCGAN whose discriminator compares reals with the average fake, and fakes with the average real.",
        changes="One critic step to one of the generator. A running average of the generator makes the samples.",
    )
    recipes = {
        **DCGAN.recipes,
        "paper": Recipe(
            steps=100_000, batch_size=32, lr=2e-4, betas=(0.5, 0.999), ema=0.0, model={"latent": 128, "width": 128}
        ),
    }

    def __init__(self, spec: Spec, *, latent: int = 100, width: int = 64):
        super().__init__(spec, latent=latent, width=width, objective="relativistic_average")
