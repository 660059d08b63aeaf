"""A model of your own in one file: `genloom fit examples/my_gan.py mnist`, then every other verb."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from genloom import Batch, Card, Model, Phase, Recipe, Spec, register


@register("my_gan")
class MyGAN(Model):
    modality = "image"
    card = Card(
        "My own idea", "Me", 2026, "https://example.org/my-gan", "Two small networks that play against each other."
    )
    recipes = {"tiny": Recipe(steps=20, batch_size=16), "cpu": Recipe(steps=5000, lr=1e-3, betas=(0.5, 0.99))}
    samples_with = ("G",)

    def __init__(self, spec: Spec, *, width: int = 256, latent: int = 32):
        super().__init__(spec)
        self.latent = latent
        pixels = torch.Size(spec.shape).numel()
        self.G = nn.Sequential(nn.Linear(latent, width), nn.ReLU(), nn.Linear(width, pixels), nn.Tanh())
        self.D = nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))

    def phases(self) -> list[Phase]:
        return [Phase("D", moves=("D",)), Phase("G", moves=("G",))]

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        real = batch["image"]
        fake = self.G(self.randn(len(real), self.latent)).view_as(real)
        if phase == "D":
            return {"D": softplus(-self.D(real)) + softplus(self.D(fake.detach()))}
        return {"G": softplus(-self.D(fake))}

    def sample(self, n: int, *, seed: int = 0, start: int = 0) -> Tensor:
        z = self.item_noise(n, self.latent, seed=seed, start=start)
        return self.G(z).view(n, *self.spec.shape)
