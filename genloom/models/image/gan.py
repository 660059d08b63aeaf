"""The first GAN, with the layers of the textbooks: dense networks, ReLU, sigmoid."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from genloom.core import Card, Recipe, Result, Spec, register
from genloom.objectives.adversarial import Adversarial


@register("gan")
class GAN(Adversarial):
    """Dense 100 -> 256 -> 512 -> 1024 -> 784 against 784 -> 512 -> 256 -> 1, for images of any one size."""

    card = Card(
        paper="Generative Adversarial Nets",
        authors="Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio",
        year=2014,
        url="https://arxiv.org/abs/1406.2661",
        summary="Two dense networks at play: one makes pictures from noise, the other tells them from real ones.",
        changes="The layers are the textbook's. Its training (recipe textbook) collapses to one picture; ours replaces the "
        "loss by the relativistic paired one with R1 and R2 (Huang et al. 2024), gamma falling from 10 to 1, which holds all "
        "classes; Adam's first moment by none; and samples from the averaged generator while the rate falls to zero, "
        "which sharpens them.",
        results=(Result("log-likelihood by Parzen windows", 225.0, "MNIST", "table 1"),),
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=16, model={"latent": 8}),
        "cpu": Recipe(
            minutes=3, batch_size=128, lr=2e-3, betas=(0.0, 0.99), ema=0.9995, decay=0.5, model={"gamma_end": 1.0}
        ),
        "default": Recipe(
            steps=50_000, batch_size=256, lr=2e-3, betas=(0.0, 0.99), ema=0.9995, decay=0.5, model={"gamma_end": 1.0}
        ),
        "textbook": Recipe(steps=10_000, batch_size=32, lr=1e-3, ema=0.0, model={"objective": "bce", "gamma": 0.0}),
    }

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int = 100,
        objective: str = "relativistic",
        gamma: float = 10.0,
        gamma_end: float | None = None,
        augment: str = "none",
    ):
        super().__init__(spec, latent=latent, objective=objective, gamma=gamma, gamma_end=gamma_end, augment=augment)
        self.generator = Generator(latent, spec.shape)
        self.discriminator = Discriminator(spec.shape)


class Generator(nn.Sequential):
    """Latents [B, Z] -> images [B, C, H, W] in [-1, 1]."""

    def __init__(self, latent: int, shape: tuple[int, ...]):
        super().__init__(*dense(latent, 256, 512, 1024, math.prod(shape)), nn.Sigmoid())
        self.shape = shape

    def forward(self, z: Tensor) -> Tensor:  # [B, Z]
        return 2 * super().forward(z).float().view(-1, *self.shape) - 1


class Discriminator(nn.Sequential):
    """Images [B, C, H, W] in [-1, 1] -> logits [B]; the textbook's last sigmoid is inside the loss."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__(*dense(math.prod(shape), 512, 256, 1))

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W]
        return super().forward((images.flatten(1) + 1) / 2).squeeze(1)


def dense(*sizes: int) -> list[nn.Module]:
    """Linear layers of these sizes with ReLU between, Glorot's initialisation, no bias at the start."""
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        linear = nn.Linear(i, o)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return layers[:-1]
