"""The conditional GAN: both dense networks are told the class."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from genloom.core import Card, Recipe, Result, Spec, register
from genloom.errors import UserError
from genloom.models.image.gan import GAN, Discriminator, Generator
from genloom.objectives.adversarial import Conditional


class Told(Conditional):
    """A GAN whose generator is told the class beside its latents."""

    def make(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        return self.generator(told(latents, labels, self.classes))


@register("cgan")
class CGAN(Told):
    """The textbook GAN with a one-hot class beside the latents and beside the pixels. Raises UserError without classes."""

    card = Card(
        paper="Conditional Generative Adversarial Nets",
        authors="Mirza, Osindero",
        year=2014,
        url="https://arxiv.org/abs/1411.1784",
        summary="Two dense networks that are both told the class: ask for a digit and it is drawn.",
        changes="The textbook's layers for the paper's 200 + 1000 and maxout; trained as our `gan` is, by the relativistic "
        "paired loss with R1 and R2 (Huang et al. 2024). The recipe textbook has the paper's loss.",
        results=(Result("log-likelihood by Parzen windows", 132.0, "MNIST", "table 1"),),
    )
    recipes = {
        **GAN.recipes,
        "paper": Recipe(
            steps=50_000, batch_size=100, lr=2e-4, betas=(0.5, 0.999), ema=0.0, model={"objective": "bce", "gamma": 0.0}
        ),
    }

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int = 100,
        objective: str = "relativistic",
        gamma: float = 10.0,
        gamma_end: float | None = None,
    ):
        if not spec.classes:
            raise UserError("cgan needs data with classes: sort the pictures into a folder a class, or fit gan.")
        super().__init__(spec, latent=latent, objective=objective, gamma=gamma, gamma_end=gamma_end, conditional=True)
        self.generator = Generator(latent + self.classes, spec.shape)
        self.discriminator = Discriminator((math.prod(spec.shape) + self.classes,))

    def logits(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        return self.discriminator(told(images.flatten(1), labels, self.classes)).float()


def told(x: Tensor, labels: Tensor, classes: int) -> Tensor:
    """[B, N] and labels [B] -> [B, N + classes]: the one-hot class as long as x is, so that no layer can overlook it."""
    return torch.cat([x, math.sqrt(x.shape[1]) * F.one_hot(labels, classes).to(x.dtype)], 1)
