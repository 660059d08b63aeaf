"""DCGAN: strided convolutions and batch normalisation on both sides."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor, nn

from genloom.core import Card, Recipe, Result, Spec, register
from genloom.errors import UserError
from genloom.nn.norm import BatchNorm
from genloom.objectives.adversarial import Adversarial


@register("dcgan")
class DCGAN(Adversarial):
    """Transposed convolutions against strided ones: `width` channels at the finest scale, twice at each coarser one."""

    card = Card(
        paper="Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
        authors="Radford, Metz, Chintala",
        year=2015,
        url="https://arxiv.org/abs/1511.06434",
        summary="The convolutional GAN: no pooling, no dense hidden layers, batch normalisation in both networks.",
        changes="Any size divisible by 4: the depth follows the size, 7x7 to 28x28 for digits, 4x4 to 64x64 as there. "
        "Latents are normal, not uniform; a running average of the generator makes the samples.",
        results=(Result("accuracy % of a classifier on its features", 82.8, "CIFAR-10", "table 1"),),
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=16, model={"width": 8, "latent": 8}),
        "cpu": Recipe(minutes=3, batch_size=64, lr=2e-3, betas=(0.0, 0.99), decay=0.8, model={"width": 32}),
        "default": Recipe(steps=30_000, batch_size=128, betas=(0.5, 0.999), decay=0.3),
        "paper": Recipe(steps=30_000, batch_size=128, betas=(0.5, 0.999), ema=0.0, model={"width": 128}),
    }
    together = False  # batch normalisation would let D compare the real images with the fakes

    def __init__(
        self, spec: Spec, *, latent: int = 100, width: int = 64, objective: str = "bce", augment: str = "none"
    ):
        super().__init__(spec, latent=latent, objective=objective, augment=augment)
        self.generator = Generator(latent, spec.shape, width)
        self.discriminator = Discriminator(spec.shape, width)


class Generator(nn.Module):
    """Latents [B, Z] -> images [B, C, H, W] in [-1, 1]."""

    def __init__(self, latent: int, shape: tuple[int, ...], width: int):
        super().__init__()
        height, breadth, widths = pyramid(shape, width)
        self.coarse = (widths[-1], height, breadth)
        self.stem = nn.Linear(latent, widths[-1] * height * breadth, bias=False)
        layers: list[nn.Module] = [BatchNorm(widths[-1]), nn.ReLU()]
        for i, o in pairwise(widths[::-1]):
            layers += [nn.ConvTranspose2d(i, o, 4, 2, 1, bias=False), BatchNorm(o), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.ConvTranspose2d(widths[0], shape[0], 4, 2, 1), nn.Tanh())
        self.apply(initialise)

    def forward(self, z: Tensor) -> Tensor:  # [B, Z]
        return self.body(self.stem(z).view(-1, *self.coarse)).float()


class Discriminator(nn.Module):
    """Images [B, C, H, W] -> logits [B]. `norm` makes the normalisation after each hidden convolution but the first."""

    def __init__(self, shape: tuple[int, ...], width: int, norm: Callable[[int], nn.Module] = BatchNorm):
        super().__init__()
        height, breadth, widths = pyramid(shape, width)
        layers: list[nn.Module] = [nn.Conv2d(shape[0], widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
        for i, o in pairwise(widths):
            layers += [nn.Conv2d(i, o, 4, 2, 1), norm(o), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Flatten())  # [B, features]
        self.features = widths[-1] * height * breadth
        self.head = nn.Linear(self.features, 1)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W]
        return self.head(self.body(images)).squeeze(1)


def plain_discriminator(shape: tuple[int, ...], width: int) -> Discriminator:
    """A discriminator without normalisation, for penalties on single images."""
    network = Discriminator(shape, width, norm=lambda channels: nn.Identity())
    for layer in network.modules():  # nothing rescales an activation here: He's gain instead of 0.02
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, 0.2)
    return network


def pyramid(shape: tuple[int, ...], width: int) -> tuple[int, int, list[int]]:
    """The coarsest (height, breadth), at most 7 on a side where halving allows, and the channels from fine to coarse.

    Raises UserError for a size that cannot be halved twice.
    """
    height, breadth = shape[1:]
    if height % 4 or breadth % 4:
        raise UserError(f"This model needs height and width divisible by 4, not {height}x{breadth}: choose another.")
    widths: list[int] = []
    while len(widths) < 2 or (height % 2 == 0 and breadth % 2 == 0 and min(height, breadth) > 7):
        height, breadth = height // 2, breadth // 2
        widths.append(width * min(2 ** len(widths), 8))
    return height, breadth, widths


def initialise(module: nn.Module) -> None:
    """Weights normal with deviation 0.02, batch normalisation's gains around 1 (section 4)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)
