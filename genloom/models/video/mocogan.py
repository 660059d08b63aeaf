"""MoCoGAN: what a clip shows is drawn once, how it moves is a walk of its own."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Batch, Card, Phase, Recipe, Result, Spec, mix, register
from genloom.errors import UserError
from genloom.nn.fold import conv_then_halve, double_then_conv
from genloom.nn.norm import BatchNorm
from genloom.nn.spacetime import fold
from genloom.nn.spectral import SpectralConv2d, SpectralEmbedding, SpectralLinear
from genloom.objectives.adversarial import Conditional

BETAS = (0.0, 0.99)
CLASS = 32  # numbers that a class is told by
COARSE = 4  # on a side, at most twice that: where pictures begin and critics end


@register("mocogan")
class MoCoGAN(Conditional):
    """One content code a clip, one motion code a frame from a recurrent net over noise; a critic of pictures, one of clips.

    `latent` and `motion` are the lengths of the codes. `width` is the channels at the finest scale, twice at each coarser
    one, up to eight times; `critic_width` likewise. Frames are made and seen in squares of `patch` pixels, clips in
    squares twice as large. A step makes and judges `window` frames in a row of each clip, from anywhere in it (0: all), and
    its first critic sees `pictures` of them. The generator steps once every `critic_steps`.
    """

    modality = "video"
    card = Card(
        paper="MoCoGAN: Decomposing Motion and Content for Video Generation",
        authors="Sergey Tulyakov, Ming-Yu Liu, Xiaodong Yang, Jan Kautz",
        year=2017,
        url="https://arxiv.org/abs/1707.04993",
        summary="A GAN of clips: one code for what is seen, a recurrent walk of codes for how it moves.",
        changes=(
            "Residual networks in place of DCGAN's, critics held to slope 1 by spectral normalisation under the hinge loss "
            "(Miyato et al. 2018), where the paper's have batch normalisation and cross-entropy: its recipe keeps that "
            "loss. A class is told to the generator beside the content and projected on by both critics (Miyato & Koyama "
            "2018); in the paper only the motion is told of it, and the critic of clips guesses it. That critic joins "
            "frames in pairs and convolves within them, at the speed of two dimensions, where the paper's convolves over "
            "three; it sees pixels folded into squares twice as large as the other's (after DVD-GAN, Clark et al. 2019). "
            "The critic of pictures sees several frames of a clip. A running average of the generator makes the samples."
        ),
        results=(Result("Inception score", 12.42, "UCF-101", "table 4"),),
    )
    recipes = {
        "tiny": Recipe(
            steps=6, batch_size=4, betas=BETAS, model={"width": 4, "critic_width": 4, "latent": 8, "patch": 4}
        ),
        "cpu": Recipe(
            minutes=10,
            batch_size=16,
            lr=1e-3,
            betas=BETAS,
            decay=0.5,
            model={"width": 32, "critic_width": 32, "patch": 4, "window": 5, "pictures": 2},
        ),
        "default": Recipe(steps=100_000, batch_size=64, betas=BETAS, decay=0.5),
        "paper": Recipe(
            steps=100_000,
            batch_size=32,
            betas=(0.5, 0.999),
            ema=0.0,
            weight_decay=1e-5,
            model={"motion": 10, "patch": 1, "pictures": 1, "objective": "bce"},
        ),
    }
    conditions = ("label", "frames")
    looks_at = 16
    generator: Generator
    discriminator: Critics

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int = 50,
        motion: int = 16,
        width: int = 64,
        critic_width: int = 64,
        patch: int = 2,
        window: int = 0,
        pictures: int = 4,
        critic_steps: int = 1,
        objective: str = "hinge",
        conditional: bool = True,
    ):
        super().__init__(spec, latent=latent, objective=objective, conditional=conditional)
        self.length, self.motion, self.pictures, self.critic_steps = spec.shape[1], motion, pictures, critic_steps
        self.window = min(window or self.length, self.length)
        if any(side % (2 * patch) for side in spec.shape[2:]):
            raise UserError(
                f"mocogan with --model.patch {patch} needs a height and width that divide by {2 * patch}, not "
                f"{spec.shape[2]}x{spec.shape[3]}: choose another size."
            )
        self.generator = Generator(spec.shape, latent, motion, width, patch, self.classes)
        seen = (spec.shape[0], self.window, *spec.shape[2:])
        self.discriminator = Critics(seen, critic_width, patch, self.classes)

    def phases(self) -> list[Phase]:
        return [Phase("discriminator", ("discriminator",)), Phase("generator", ("generator",), every=self.critic_steps)]

    def grid(self) -> int:
        return 8

    def latents(self, n: int) -> Tensor:
        return self.randn(n, self.latent + (1 + self.length) * self.motion)

    def critic_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        moments = self.moments(len(real))
        with torch.no_grad():
            fake = self.generator(latents, labels, moments)
        both = None if labels is None else torch.cat([labels, labels])
        logits = self.discriminator(torch.cat([frames_at(real, moments), fake]), both, self.pictures)
        return {name: self.objective.critic(*x.chunk(2)).mean(1) for name, x in logits.items()}

    def generator_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        moments = self.moments(len(real))
        logits = self.discriminator(self.generator(latents, labels, moments), labels, self.pictures)
        against = logits
        if self.objective.paired:
            with torch.no_grad():
                against = self.discriminator(frames_at(real, moments), labels, self.pictures)
        terms = {name: self.objective.generator(against[name], x).mean(1) for name, x in logits.items()}
        return {f"generator {name}": x for name, x in terms.items()}

    def moments(self, n: int) -> Tensor:
        """[n, window] the numbers of frames in a row, from anywhere in a clip."""
        first = parallel.rand(n, 1, device=self.device) * (self.length - self.window + 1)
        return first.long() + torch.arange(self.window, device=self.device)

    def critic(self, batch: Batch) -> Tensor:
        middle = (self.length - self.window) // 2
        seen = batch["video"][:, :, middle : middle + self.window]
        return self.discriminator.clips(seen, self.labels(batch)).float()

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        label: int | Tensor | None = None,
        frames: int | None = None,
    ) -> Tensor:
        """[n, C, T, H, W] in [-1, 1]; without `label` the classes come in turn. `frames`: how many, by default as learnt.

        Longer clips begin as the shorter ones of that seed do. Raises UserError for an unknown class or no frames.
        """
        if frames is not None and frames < 1:
            raise UserError(f"frames is {frames}: take 1 or more.")
        count = (1 + (frames or self.length)) * self.motion
        noise = {"seed": mix(seed, 1), "start": start}
        walk = self.item_noise(n, 16 * math.ceil(count / 16), **noise)[:, :count]  # so a longer row begins as a shorter
        content = self.item_noise(n, self.latent, seed=seed, start=start)
        return self.make(torch.cat([content, walk], 1), self.wanted(n, label, start))


# ── the generator ────────────────────────────────────────────────────────────────────────────────────────────────
class Generator(nn.Module):
    """Codes [B, Z + (1 + T)·M] (and labels [B]) -> clips [B, C, T, H, W] in [-1, 1].

    The first Z numbers are the content; the next M are where the motion begins, and each M after it push it on by a frame
    (section 3.1): a gated recurrent unit's states are the motion codes.
    """

    def __init__(self, shape: tuple[int, ...], latent: int, motion: int, width: int, patch: int, classes: int):
        super().__init__()
        self.latent, self.motion, self.patch = latent, motion, patch
        self.label = nn.Embedding(classes, CLASS) if classes else None
        self.walk = nn.GRUCell(motion, motion)
        (height, breadth), widths = pyramid((shape[2] // patch, shape[3] // patch), width)
        self.coarse = (widths[0], height, breadth)
        self.stem = nn.Linear(latent + motion + (CLASS if classes else 0), widths[0] * height * breadth)
        self.blocks = nn.Sequential(*(Up(i, o) for i, o in pairwise(widths)))
        self.head = nn.Sequential(
            BatchNorm(widths[-1]), nn.ReLU(), nn.Conv2d(widths[-1], shape[0] * patch**2, 3, padding=1), nn.Tanh()
        )
        orthogonal(self)

    def forward(self, codes: Tensor, labels: Tensor | None = None, moments: Tensor | None = None) -> Tensor:
        """`moments` [B, K]: of each clip the pictures at these numbers alone; the walk to them costs next to nothing."""
        content, walk = codes.split([self.latent, codes.shape[1] - self.latent], 1)
        if self.label is not None and labels is not None:
            content = torch.cat([content, self.label(labels)], 1)
        state, *pushes = walk.unflatten(1, (-1, self.motion)).unbind(1)
        states = torch.stack([state := self.walk(push, state) for push in pushes], 1)  # [B, T, M]
        if moments is not None:
            states = states.gather(1, moments[:, :, None].expand(-1, -1, self.motion))
        told = torch.cat([content[:, None].expand(-1, states.shape[1], -1), states], 2).flatten(0, 1)  # [B·T, Z + M]
        x = self.stem(told).view(-1, *self.coarse).contiguous(memory_format=torch.channels_last)
        frames = F.pixel_shuffle(self.head(self.blocks(x)), self.patch)
        return frames.unflatten(0, (len(codes), -1)).transpose(1, 2).float()


class Up(nn.Module):
    """[N, I, H, W] -> [N, O, 2H, 2W]: a residual block of two 3x3 convolutions, normalised before each."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.norm1, self.norm2 = BatchNorm(i), BatchNorm(o)
        self.conv1, self.conv2 = nn.Conv2d(i, o, 3, padding=1), nn.Conv2d(o, o, 3, padding=1)
        self.skip = nn.Conv2d(i, o, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = double_then_conv(self.conv1, F.relu(self.norm1(x)))
        h = self.conv2(F.relu(self.norm2(h)))
        return h + F.interpolate(self.skip(x), scale_factor=2.0)


# ── the critics ──────────────────────────────────────────────────────────────────────────────────────────────────
class Critics(nn.Module):
    """The two that the generator plays against: of single frames and of clips."""

    def __init__(self, shape: tuple[int, ...], width: int, patch: int, classes: int):
        super().__init__()
        self.pictures = Critic((shape[0], 1, *shape[2:]), width, patch, classes)
        self.clips = Critic(shape, 2 * width, 2 * patch, classes)
        orthogonal(self)

    def forward(self, clips: Tensor, labels: Tensor | None, count: int) -> dict[str, Tensor]:
        """Logits of clips [B, C, T, H, W]: [B, count] of frames of each by chance, [B, 1] of each as a whole."""
        moments = (parallel.rand(len(clips), count, device=clips.device) * clips.shape[2]).long()
        frames = fold(frames_at(clips, moments))[:, :, None]  # [B·K, C, 1, H, W]
        several = None if labels is None else labels.repeat_interleave(count)
        pictures = self.pictures(frames, several).unflatten(0, (-1, count))
        return {"pictures": pictures.float(), "clips": self.clips(clips, labels)[:, None].float()}


def frames_at(clips: Tensor, moments: Tensor) -> Tensor:
    """[B, C, K, H, W]: of each clip [C, T, H, W] the frames of the numbers [K]."""
    rows = torch.arange(len(clips), device=clips.device)[:, None]
    return clips.transpose(1, 2)[rows, moments].transpose(1, 2)


class Critic(nn.Module):
    """Clips [B, C, T, H, W] (and labels [B]) -> logits [B]: ψ(h) + <e(label), h> (Miyato & Koyama 2018).

    Every layer is held to slope 1. Before each block two frames that follow each other become one of twice the channels,
    while there are any: so convolutions within frames see motion too, at the speed of those alone.
    """

    def __init__(self, shape: tuple[int, ...], width: int, patch: int, classes: int):
        super().__init__()
        channels, frames, *sides = shape
        self.patch = patch
        _, widths = pyramid((sides[0] // patch, sides[1] // patch), width)
        halvings = len(widths) - 1
        inputs, blocks = channels * patch**2, []
        for i in range(max(halvings + 1, math.ceil(math.log2(frames)))):
            outputs = widths[::-1][min(i + 1, halvings)]
            blocks.append(Down(inputs * (2 if frames > 1 else 1), outputs, first=i == 0, halves=i < halvings))
            inputs, frames = outputs, math.ceil(frames / 2)
        self.blocks = nn.ModuleList(blocks)
        self.head = SpectralLinear(inputs, 1)
        self.label = SpectralEmbedding(classes, inputs) if classes else None

    def forward(self, clips: Tensor, labels: Tensor | None = None) -> Tensor:  # [B, C, T, H, W], [B]
        frames = clips.shape[2]
        x = F.pixel_unshuffle(fold(clips), self.patch).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            if frames > 1:
                x, frames = pairs(x, frames), math.ceil(frames / 2)
            x = block(x)
        h = F.relu(x).float().unflatten(0, (-1, frames)).sum((1, 3, 4))  # [B, W]
        logits = self.head(h).squeeze(1)
        return logits if self.label is None or labels is None else logits + (self.label(labels) * h).sum(1)


def pairs(x: Tensor, frames: int) -> Tensor:
    """Every two frames that follow each other side by side: [B·T, C, H, W] -> [B·T/2, 2C, H, W]; an odd last one twice."""
    if frames % 2:
        clips = x.unflatten(0, (-1, frames))
        x = torch.cat([clips, clips[:, -1:]], 1).flatten(0, 1)
    return torch.cat([x[0::2], x[1::2]], 1)


class Down(nn.Module):
    """[N, I, H, W] -> [N, O, H/2, W/2], or no smaller: a residual block of two 3x3 convolutions of spectral norm 1.

    The first one takes pixels as they are.
    """

    def __init__(self, i: int, o: int, *, first: bool, halves: bool):
        super().__init__()
        self.first, self.halves = first, halves
        self.conv1, self.conv2 = SpectralConv2d(i, o, 3, padding=1), SpectralConv2d(o, o, 3, padding=1)
        self.skip = SpectralConv2d(i, o, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x if self.first else F.relu(x)))
        h = conv_then_halve(self.conv2, h) if self.halves else self.conv2(h)
        return h + self.skip(F.avg_pool2d(x, 2) if self.halves else x)


# ── sizes and beginnings ─────────────────────────────────────────────────────────────────────────────────────────
def pyramid(sides: tuple[int, int], width: int) -> tuple[tuple[int, int], list[int]]:
    """The coarsest height and width, and the channels from coarse to fine."""
    height, breadth = sides
    widths = [width]
    while height % 2 == 0 and breadth % 2 == 0 and min(height, breadth) >= 2 * COARSE:
        height, breadth = height // 2, breadth // 2
        widths.append(width * min(2 ** len(widths), 8))
    return (height, breadth), widths[::-1]


def orthogonal(network: nn.Module) -> None:
    """Weights begin orthogonal: over its largest singular value a random one would shrink most of what it is given."""
    for p in network.parameters():
        if p.ndim > 1:
            nn.init.orthogonal_(p.data)
