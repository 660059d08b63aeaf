"""The variational autoencoder: two small networks, one bound on the likelihood."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from genloom.core import Batch, Card, Model, Recipe, Spec, register
from genloom.objectives import variational


def mlp(inside: int, width: int, out: int) -> nn.Sequential:
    """Two hidden layers of `width`."""
    return nn.Sequential(nn.Linear(inside, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, out))


@register("vae")
class VAE(Model):
    """q(z|x) and p(x|z) by an MLP each, p(z) = N(0, I) of `latent` dimensions.

    `likelihood` of a pixel: "bernoulli" of its brightness in [0, 1], or "gaussian" with one learned variance for all
    (Rybkin et al. 2021). `beta` weighs the KL (Higgins et al. 2017); the bound on log p(x) is the one at 1.
    """

    modality = "image"
    card = Card(
        paper="Auto-Encoding Variational Bayes",
        authors="Diederik P. Kingma, Max Welling",
        year=2014,
        url="https://arxiv.org/abs/1312.6114",
        summary="An encoder and a decoder that together maximise a lower bound on the likelihood of the data.",
        changes=(
            "Two hidden layers of SiLU units in place of one of tanh units, and Adam in place of Adagrad: a better "
            "bound in the same minutes. Samples are the decoder's mean, as is customary, not draws of its pixels."
        ),
    )
    recipes = {
        "cpu": Recipe(minutes=3, batch_size=128, lr=1e-3, decay=0.5),
        "default": Recipe(steps=100_000, batch_size=256, lr=1e-3, decay=0.5, model={"width": 1024, "latent": 64}),
        "tiny": Recipe(steps=100, batch_size=16, lr=1e-3, ema=0.9, model={"width": 32, "latent": 8}),
    }
    samples_with = ("decoder",)

    def __init__(
        self,
        spec: Spec,
        *,
        width: int = 512,
        latent: int = 20,
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        beta: float = 1.0,
    ):
        super().__init__(spec)
        pixels, known = math.prod(spec.shape), self.known_size(spec)
        self.latent, self.likelihood, self.beta = latent, likelihood, beta
        self.encoder = mlp(pixels + known, width, 2 * latent)
        self.decoder = mlp(latent + known, width, pixels)
        if likelihood == "gaussian":
            self.log_variance = nn.Parameter(torch.zeros(()))

    @staticmethod
    def known_size(spec: Spec) -> int:
        """How many numbers about an item both networks are told beside their input."""
        return 0

    def known(self, batch: Batch) -> list[Tensor]:
        """What both networks are told, [B, known_size] or nothing."""
        return []

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """-log p(x|z) at one sample of z, and beta KL(q(z|x) || p(z)), [B] each in nats; log p(x) >= -(sum at beta 1)."""
        image = batch["image"].flatten(1)
        known = self.known(batch)
        mean, log_variance = self.encoder(torch.cat([image, *known], 1)).float().chunk(2, 1)
        z = variational.reparametrise(mean, log_variance, self.randn(len(image), self.latent))
        decoded = self.decoder(torch.cat([z, *known], 1)).float()
        kl = variational.kl_to_standard_normal(mean, log_variance)
        return {"reconstruction": -self.log_likelihood(image, decoded), "kl": self.beta * kl}

    def log_likelihood(self, image: Tensor, decoded: Tensor) -> Tensor:
        """log p(x|z) in nats, [B, D] twice -> [B]."""
        if self.likelihood == "bernoulli":
            return variational.bernoulli_log_likelihood((image + 1) / 2, decoded)
        return variational.gaussian_log_likelihood(image, decoded, self.log_variance)

    def sample(self, n: int, *, seed: int = 0, start: int = 0) -> Tensor:
        """[n, C, H, W] in [-1, 1]: the decoder's mean for z ~ N(0, I)."""
        return self.decode(self.item_noise(n, self.latent, seed=seed, start=start))

    def decode(self, z: Tensor) -> Tensor:
        """The mean image for each row of z (and what is known) [B, latent + known_size] -> [B, C, H, W] in [-1, 1]."""
        decoded = self.decoder(z).float()
        mean = 2 * decoded.sigmoid() - 1 if self.likelihood == "bernoulli" else decoded.clamp(-1, 1)
        return mean.view(-1, *self.spec.shape)
