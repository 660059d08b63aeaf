"""DCGAN: strided convolutions and batch normalisation on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from genloom.core import Card, Recipe, Result, Spec, build, register
from genloom.errors import UserError
from genloom.nn.norm import BatchNorm
from genloom.nn.weights import load_exactly
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

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> DCGAN:
        """A generator in the layout of PyTorch's DCGAN example (`main.0.weight` …), whose weights tell its options.

        Any prefix before `main.` is taken off. Raises UserError for another layout.
        """
        theirs = {k[k.index("main.") :]: v for k, v in weights.items() if "main." in k}
        first = theirs.get("main.0.weight", torch.zeros(0))
        last = max((k for k in theirs if k.endswith(".weight")), key=lambda k: int(k.split(".")[1]), default="")
        if first.ndim != 4 or theirs[last].shape[2:] != (4, 4) or len(theirs) < 12:
            raise UserError(
                "These are not the weights of a DCGAN generator as PyTorch's example names them (main.0.weight …)."
            )
        stages = sum(v.ndim == 4 for v in theirs.values()) - 1
        channels, size = theirs[last].shape[1], first.shape[-1] << stages
        spec = Spec("image", (channels, size, size))
        model = build(cls, spec, {"latent": first.shape[0], "width": theirs[last].shape[0]})
        ours = {
            f"body.{int(k.split('.')[1]) - 1}.{k.split('.')[2]}": v for k, v in theirs.items() if k != "main.0.weight"
        }
        ours["stem.weight"] = first.flatten(1).T  # a transposed convolution of one pixel is a product
        ours.setdefault(f"body.{3 * stages - 1}.bias", torch.zeros(channels))
        load_exactly(model.generator, ours, "the generator")
        return model.eval()


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
