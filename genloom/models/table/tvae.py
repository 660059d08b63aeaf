"""TVAE: a variational autoencoder whose decoder gives each number a normal distribution and each category its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.core import Batch, Card, Model, Recipe, Spec, register, within
from genloom.nn.columns import Columns, pick, uniform
from genloom.objectives.variational import gaussian_log_likelihood, kl_to_standard_normal, reparametrise


def mlp(inside: int, width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inside, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


@register("tvae")
class TVAE(Model):
    """q(z|x) and p(x|z) by an MLP each, p(z) = N(0, I) of `latent` dimensions; `emphasis` weighs the reconstruction."""

    modality = "table"
    bf16 = False  # a place among quantiles needs more digits
    card = Card(
        paper="Modeling Tabular Data using Conditional GAN",
        authors="Lei Xu, Maria Skoularidou, Alfredo Cuesta-Infante, Kalyan Veeramachaneni",
        year=2019,
        url="https://arxiv.org/abs/1907.00503",
        summary="A variational autoencoder of tables: numbers with a variance of their own each, categories by their chances.",
        changes=(
            "A number is given by its quantile among the data's, one scalar, where the paper fits a Gaussian mixture to each "
            "column: quantiles are spread evenly, so there are no modes to tell apart. Categories are drawn by their chances; "
            "drawn by the largest, rare ones would never come."
        ),
    )
    recipes = {
        "tiny": Recipe(steps=100, batch_size=16, lr=1e-3, ema=0.9, model={"width": 32, "latent": 8}),
        "cpu": Recipe(
            minutes=3, batch_size=500, lr=1e-3, weight_decay=1e-5, decay=0.5, model={"width": 256, "latent": 64}
        ),
        "default": Recipe(steps=20_000, batch_size=500, lr=1e-3, weight_decay=1e-5, decay=0.5),
        "paper": Recipe(steps=30_000, batch_size=500, lr=1e-3, weight_decay=1e-5, ema=0.0),
    }
    samples_with = ("decoder", "log_variance")

    def __init__(self, spec: Spec, *, width: int = 128, latent: int = 128, emphasis: float = 2.0):
        within(1, 16_384, width=width, latent=latent)
        within(0, 1e6, emphasis=emphasis)
        super().__init__(spec)
        self.columns, self.latent, self.emphasis = Columns(spec), latent, emphasis
        self.encoder = mlp(self.columns.width, width, 2 * latent)
        self.decoder = mlp(latent, width, self.columns.width)
        self.log_variance = nn.Embedding(self.columns.width, 1)  # of numbers, in their places of the one-hot form
        nn.init.constant_(self.log_variance.weight, -2.0)

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        """-emphasis log p(x|z) at one sample of z, and KL(q(z|x) || p(z)), [B] each in nats."""
        rows = batch["table"]
        mean, log_variance = self.encoder(self.columns.one_hot(rows)).float().chunk(2, 1)
        z = reparametrise(mean, log_variance, self.randn(len(rows), self.latent))
        return {
            "reconstruction": -self.emphasis * self.log_likelihood(rows, self.decoder(z).float()),
            "kl": kl_to_standard_normal(mean, log_variance),
        }

    def log_likelihood(self, rows: Tensor, decoded: Tensor) -> Tensor:
        """log p(x|z) in nats, rows [B, C] and what is decoded [B, W] -> [B]; a number that is not given counts nothing."""
        total = torch.zeros(len(rows), device=rows.device)
        spread = self.log_variance.weight[:, 0].clamp(-9, 2)
        for part in self.columns.parts:
            own = decoded[:, part.span]
            if part.codes:
                total = total - F.cross_entropy(own, self.columns.code(rows, part), reduction="none")
                continue
            x = rows[:, part.column : part.column + 1]
            known = ~x.isnan()
            x = torch.where(known, x, torch.tanh(own).detach())
            total = total + known[:, 0] * gaussian_log_likelihood(x, torch.tanh(own), spread[part.start])
        return total

    def sample(self, n: int, *, seed: int = 0, start: int = 0) -> Tensor:
        """Rows [n, C] for z ~ N(0, I), each cell drawn from what is decoded."""
        noise = self.item_noise(n, self.latent + self.columns.width, seed=seed, start=start)
        z, cells = noise.split([self.latent, self.columns.width], 1)
        decoded = self.decoder(z).float()
        spread = (0.5 * self.log_variance.weight[:, 0].clamp(-9, 2)).exp()
        chosen = {p.start: pick(decoded[:, p.span], uniform(cells[:, p.start])) for p in self.columns.discrete}
        return self.columns.rows(torch.tanh(decoded) + spread * cells, chosen)
