"""FastGAN: pictures from few pictures, by a light generator and a discriminator that must also remember what it saw."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Card, Recipe, Result, Spec, register
from genloom.errors import UserError
from genloom.models.image.dcgan import initialise
from genloom.nn.norm import BatchNorm
from genloom.objectives.adversarial import Adversarial

LEAP = 4  # halvings between the two ends of a skip-layer excitation: 8x8 gates 128x128


@register("fastgan")
class FastGAN(Adversarial):
    """Skip-layer excitation in the generator; in the discriminator, decoders that redraw reals from its features.

    One decoder redraws the whole picture from the coarsest features, the other one quadrant of it from the next
    finer ones, the same quadrant for the whole batch. Raises UserError for a size that cannot be halved twice.
    """

    card = Card(
        paper="Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image Synthesis",
        authors="Liu, Zhu, Song, Elgammal",
        year=2021,
        url="https://arxiv.org/abs/2101.04775",
        summary="A GAN for a hundred pictures: the discriminator's self-supervision keeps it from learning them by heart.",
        changes="Redrawn pictures are compared by their absolute error, not by a perceptual network that would have to be "
        "downloaded; the hinge has no random margin, convolutions no spectral normalisation, and the discriminator one "
        "resolution. Differentiable augmentation is the option augment. Sizes follow the data.",
        results=(Result("FID", 41.05, "Obama, 100 pictures, 256x256", "section 4"),),
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=16, model={"width": 8, "latent": 8}),
        "cpu": Recipe(
            minutes=3, batch_size=32, lr=2e-3, betas=(0.0, 0.99), decay=0.8, model={"width": 12, "latent": 64}
        ),
        "default": Recipe(steps=50_000, batch_size=16, betas=(0.5, 0.999), decay=0.3),
        "paper": Recipe(steps=50_000, batch_size=8, betas=(0.5, 0.999)),
    }
    together = False

    def __init__(self, spec: Spec, *, latent: int = 256, width: int = 64, redraw: float = 1.0, augment: str = "none"):
        super().__init__(spec, latent=latent, objective="hinge", augment=augment)
        self.redraw = redraw
        sizes = scales(spec.shape)
        self.generator = Generator(latent, sizes, width, spec.shape[0])
        self.discriminator = Discriminator(sizes, width, spec.shape[0])

    def critic_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        """The hinge, and how well the seen reals are redrawn from the features that judged them."""
        with torch.no_grad():
            fake = self.make(latents)
        seen, net = self.augment(real), self.discriminator
        assert isinstance(net, Discriminator)
        fine, coarse = net.features(seen)
        quadrant = int(parallel.randint(4, 1, real.device))
        errors = [
            absolute_error(net.whole(coarse), seen),
            absolute_error(net.part(corner(fine, quadrant)), corner(seen, quadrant)),
        ]
        critic = self.objective.critic(net.head(coarse).float(), self.judge(fake))
        return {"discriminator": critic, "redraw": self.redraw * (errors[0] + errors[1])}


def absolute_error(drawn: Tensor, wanted: Tensor) -> Tensor:
    """[B]: the wanted pictures are averaged down to the size of the drawn ones."""
    return (drawn.float() - F.adaptive_avg_pool2d(wanted, (drawn.shape[2], drawn.shape[3]))).abs().flatten(1).mean(1)


def corner(x: Tensor, quadrant: int) -> Tensor:
    """One quarter [B, C, ⌊H/2⌋, ⌊W/2⌋] of maps [B, C, H, W]: the first or last half of each side."""
    h, w = x.shape[2] // 2, x.shape[3] // 2
    rows = slice(-h, None) if quadrant & 2 else slice(h)
    return x[:, :, rows, -w:] if quadrant & 1 else x[:, :, rows, :w]


def scales(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """(height, width) from coarse to fine: halved until a side is 7 or less. Raises UserError below two halvings."""
    sizes = [(shape[1], shape[2])]
    while sizes[0][0] % 2 == 0 and sizes[0][1] % 2 == 0 and (min(sizes[0]) > 7 or len(sizes) < 3):
        sizes.insert(0, (sizes[0][0] // 2, sizes[0][1] // 2))
    if len(sizes) < 3:
        raise UserError(f"fastgan needs height and width divisible by 4, not {shape[1]}x{shape[2]}: choose another.")
    return sizes


def channels(width: int, sizes: list[tuple[int, int]]) -> list[int]:
    """`width` at the finest scale, twice at each coarser one, eight times at most."""
    return [width * min(2**i, 8) for i in reversed(range(len(sizes)))]


class Generator(nn.Module):
    """Latents [B, Z] -> images [B, C, H, W] in [-1, 1]; the map at scale i gates the channels of that at i + leap."""

    def __init__(self, latent: int, sizes: list[tuple[int, int]], width: int, colours: int):
        super().__init__()
        widths = channels(width, sizes)
        self.leap = min(LEAP, len(sizes) - 1)
        self.stem = nn.ConvTranspose2d(latent, 2 * widths[0], sizes[0], bias=False)
        self.open = nn.Sequential(BatchNorm(2 * widths[0]), nn.GLU(1))
        self.ups = nn.ModuleList([up(i, o) for i, o in pairwise(widths)])
        self.gates = nn.ModuleList([Excitation(i, o) for i, o in zip(widths, widths[self.leap :], strict=False)])
        self.paint = nn.Conv2d(widths[-1], colours, 3, padding=1, bias=False)
        self.apply(initialise)

    def forward(self, z: Tensor) -> Tensor:  # [B, Z]
        maps = [self.open(self.stem(z[:, :, None, None]))]
        for i, layer in enumerate(self.ups, start=1):
            x = layer(maps[-1])
            if i >= self.leap:
                x = x * self.gates[i - self.leap](maps[i - self.leap])
            maps.append(x)
        return torch.tanh(self.paint(maps[-1]).float())


class Excitation(nn.Module):
    """Coarse maps [B, I, h, w] -> gates in (0, 1) [B, O, 1, 1] for finer ones: the paper's eq. 1."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Conv2d(i, o, 4), nn.LeakyReLU(0.1), nn.Conv2d(o, o, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Discriminator(nn.Module):
    """Images [B, C, H, W] -> logits [B], the mean over the positions of the coarsest features."""

    def __init__(self, sizes: list[tuple[int, int]], width: int, colours: int):
        super().__init__()
        widths = channels(width, sizes)[::-1]  # from fine to coarse
        self.enter = nn.Sequential(nn.Conv2d(colours, widths[0], 3, padding=1, bias=False), nn.LeakyReLU(0.2))
        self.downs = nn.ModuleList([Down(i, o) for i, o in pairwise(widths)])
        self.score = nn.Sequential(
            nn.Conv2d(widths[-1], widths[-1], 1, bias=False),
            BatchNorm(widths[-1]),
            nn.LeakyReLU(0.2),
            nn.Conv2d(widths[-1], 1, min(4, *sizes[0]), bias=False),
        )
        self.whole = decoder(widths[-1], width, colours, min(LEAP, len(sizes) - 1))
        self.part = decoder(widths[-2], width, colours, min(LEAP, len(sizes) - 2))
        self.apply(initialise)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The maps at the last scale but one, and at the last."""
        fine = coarse = self.enter(images)
        for layer in self.downs:
            fine, coarse = coarse, layer(coarse)
        return fine, coarse

    def head(self, coarse: Tensor) -> Tensor:
        return self.score(coarse).flatten(1).mean(1)

    def forward(self, images: Tensor) -> Tensor:  # [B, C, H, W]
        return self.head(self.features(images)[1])


class Down(nn.Module):
    """[B, I, H, W] -> [B, O, H/2, W/2]: the mean of a path of two convolutions and of a pooled one."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.main = nn.Sequential(
            *(nn.Conv2d(i, o, 4, 2, 1, bias=False), BatchNorm(o), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(o, o, 3, padding=1, bias=False), BatchNorm(o), nn.LeakyReLU(0.2)),
        )
        self.side = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(i, o, 1, bias=False), BatchNorm(o), nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.main(x) + self.side(x)) / 2


def up(i: int, o: int) -> nn.Sequential:
    """[B, I, H, W] -> [B, O, 2H, 2W]: nearest neighbours, a convolution, a gated linear unit."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2), nn.Conv2d(i, 2 * o, 3, padding=1, bias=False), BatchNorm(2 * o), nn.GLU(1)
    )


def decoder(i: int, width: int, colours: int, ups: int) -> nn.Sequential:
    """Features [B, I, H, W] -> pictures [B, C, H·2^ups, W·2^ups] in [-1, 1]."""
    widths = [i, *[width] * ups]
    return nn.Sequential(
        *(up(a, b) for a, b in pairwise(widths)), nn.Conv2d(width, colours, 3, padding=1, bias=False), nn.Tanh()
    )
