"""MoCoGAN: what a clip shows is drawn once, how it moves is a walk of its own."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Batch, Card, Recipe, Result, Spec, mix, register
from genloom.errors import UserError
from genloom.nn.residual import Basis, Block, Down, Up, convolution, linear, natural_scales, scaled_normal
from genloom.nn.spacetime import across, fold
from genloom.objectives.adversarial import Conditional, score_and_slope

BETAS = (0.0, 0.99)
CLASS = 64  # numbers that a class is told by
GROUP = 8  # channels that a 3x3 convolution joins


@register("mocogan")
class MoCoGAN(Conditional):
    """One content code a clip, one motion code a frame from a recurrent net over noise; one critic of pictures, one of clips.

    `latent` and `motion` are the lengths of the codes. `width` is that of the finest scale, twice at each coarser one, up
    to eight times. Frames are made and seen in squares of `patch` pixels, clips in squares twice as large.
    """

    modality = "video"
    card = Card(
        paper="MoCoGAN: Decomposing Motion and Content for Video Generation",
        authors="Sergey Tulyakov, Ming-Yu Liu, Xiaodong Yang, Jan Kautz",
        year=2017,
        url="https://arxiv.org/abs/1707.04993",
        summary="A GAN of clips: one code for what is seen, a recurrent walk of codes for how it moves.",
        changes="",
        results=(Result("Inception score", 12.42, "UCF-101", "table 4"),),
    )
    recipes = {
        "tiny": Recipe(steps=6, batch_size=4, betas=BETAS, model={"width": 8, "latent": 8, "patch": 4}),
        "cpu": Recipe(
            minutes=10,
            batch_size=16,
            lr=2e-3,
            betas=BETAS,
            ema=0.998,
            decay=0.6,
            model={"width": 32, "patch": 4, "gamma": 10.0, "gamma_end": 1.0},
        ),
        "default": Recipe(steps=100_000, batch_size=64, lr=5e-4, betas=BETAS, decay=0.5),
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
        patch: int = 2,
        objective: str = "relativistic",
        gamma: float = 1.0,
        gamma_end: float | None = None,
        conditional: bool = True,
    ):
        super().__init__(
            spec, latent=latent, objective=objective, gamma=gamma, gamma_end=gamma_end, conditional=conditional
        )
        self.length, self.motion = spec.shape[1], motion
        if any(side % (4 * patch) for side in spec.shape[2:]):
            raise UserError(
                f"mocogan with --model.patch {patch} needs a height and width that divide by {4 * patch}, not "
                f"{spec.shape[2]}x{spec.shape[3]}: choose another size."
            )
        self.generator = Generator(spec.shape, latent, motion, width, patch, self.classes)
        self.discriminator = Critics(spec.shape, width, patch, self.classes)

    def grid(self) -> int:
        return 8

    def latents(self, n: int) -> Tensor:
        return self.randn(n, self.latent + (1 + self.length) * self.motion)

    def critic_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self.make(latents, labels)
        both = None if labels is None else torch.cat([labels, labels])
        terms: dict[str, Tensor] = {}
        for name, seen in self.seen(torch.cat([real, fake])).items():
            critic = self.discriminator.get_submodule(name)
            logits, slope = score_and_slope(lambda x: critic(x, both).float(), seen)
            r, f = logits.chunk(2)
            r1, r2 = (0.5 * self.gamma * slope).chunk(2)
            terms |= {name: self.objective.critic(r, f), f"{name} r1": r1, f"{name} r2": r2}
        return terms

    def generator_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        fake = self.make(latents, labels)
        terms: dict[str, Tensor] = {}
        for name, seen in self.seen(torch.cat([real, fake])).items():
            critic = self.discriminator.get_submodule(name)
            r, f = seen.chunk(2)
            with torch.no_grad():
                r = critic(r, labels).float()
            terms[f"generator {name}"] = self.objective.generator(r, critic(f, labels).float())
        return terms

    def seen(self, clips: Tensor) -> dict[str, Tensor]:
        """What each critic sees of clips [B, C, T, H, W]: one frame of each, by chance, and all of it."""
        rows = torch.arange(len(clips), device=clips.device)
        moment = (parallel.rand(len(clips), device=clips.device) * clips.shape[2]).long()
        return {"pictures": clips[rows, :, moment][:, :, None], "clips": clips}

    def critic(self, batch: Batch) -> Tensor:
        return self.discriminator.clips(batch["video"], self.labels(batch)).float()

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
        return self.make(torch.cat([content, walk], 1), self.wanted(n, label, start)).clamp(-1, 1)


class Generator(nn.Module):
    """Codes [B, Z + (1 + T)·M] (and labels [B]) -> clips [B, C, T, H, W], unbounded.

    The first Z numbers are the content; the next M are where the motion begins, and each M after it push it on by a frame
    (section 3.1): a gated recurrent unit's states are the motion codes.
    """

    def __init__(self, shape: tuple[int, ...], latent: int, motion: int, width: int, patch: int, classes: int):
        super().__init__()
        self.latent, self.motion, self.patch = latent, motion, patch
        self.label = nn.Embedding(classes, CLASS) if classes else None
        self.walk = nn.GRUCell(motion, motion)
        base, widths = pyramid((shape[2] // patch, shape[3] // patch), width)
        told = latent + motion + (CLASS if classes else 0)
        gain = len(widths) ** -0.25
        layers: list[nn.Module] = [Basis(told, widths[0], base), block(widths[0], gain)]
        for i, o in pairwise(widths):
            layers += [Up(i, o), block(o, gain)]
        self.picture = nn.Sequential(*layers, convolution(widths[-1], shape[0] * patch**2))

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:  # [B, Z + (1 + T)·M], [B]
        content, walk = codes.split([self.latent, codes.shape[1] - self.latent], 1)
        if self.label is not None and labels is not None:
            content = torch.cat([content, self.label(labels)], 1)
        state, *pushes = walk.unflatten(1, (-1, self.motion)).unbind(1)
        states = [state := self.walk(push, state) for push in pushes]
        told = [torch.cat([content, motion], 1) for motion in states]
        folded = self.picture(torch.stack(told, 1).flatten(0, 1))  # [B·T, C·patch², h, w]
        return F.pixel_shuffle(folded, self.patch).unflatten(0, (len(codes), -1)).transpose(1, 2).float()


class Critics(nn.Module):
    """The two that the generator plays against: of single frames and of clips."""

    def __init__(self, shape: tuple[int, ...], width: int, patch: int, classes: int):
        super().__init__()
        self.pictures = Critic((shape[0], 1, *shape[2:]), width, patch, classes)
        self.clips = Critic(shape, 2 * width, 2 * patch, classes)


class Critic(nn.Module):
    """Clips [B, C, T, H, W] (and labels [B]) -> logits [B]: with classes, the projection of the features on the class.

    Blocks within frames take turns with blocks across them where there is more than one; time halves with space while it
    is even.
    """

    def __init__(self, shape: tuple[int, ...], width: int, patch: int, classes: int):
        super().__init__()
        channels, frames, *sides = shape
        self.patch = patch
        base, widths = pyramid((sides[0] // patch, sides[1] // patch), width)
        widths = widths[::-1]  # from fine to coarse
        gain = (len(widths) * (2 if frames > 1 else 1)) ** -0.25
        self.first = convolution(channels * patch**2, widths[0])
        self.within = nn.ModuleList(block(w, gain) for w in widths)
        self.across = nn.ModuleList(block(w, gain, (3, 1)) for w in (widths if frames > 1 else []))
        self.down = nn.ModuleList(Down(i, o) for i, o in pairwise(widths))
        for _ in self.down:
            frames //= 2 - frames % 2
        self.basis = nn.Parameter(torch.empty(widths[-1], frames, *base))
        scaled_normal(self.basis)
        self.head = linear(widths[-1], CLASS if classes else 1)
        self.label = nn.Embedding(classes, CLASS) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, 0, CLASS**-0.5)

    def forward(self, clips: Tensor, labels: Tensor | None = None) -> Tensor:  # [B, C, T, H, W], [B]
        frames = clips.shape[2]
        x = F.pixel_unshuffle(fold(clips), self.patch).contiguous(memory_format=torch.channels_last)
        x = self.first(x)
        for i, within in enumerate(self.within):
            x = within(x)
            if self.across:
                x = across(self.across[i], x, frames)
            if i < len(self.down):
                x = self.down[i](x)
                if frames % 2 == 0:
                    x, frames = pairs(x), frames // 2
        x = x.unflatten(0, (-1, frames)).transpose(1, 2)  # [B, W, T, h, w]
        seen = self.head((x * self.basis.to(x.dtype)).sum((2, 3, 4)))
        if self.label is None or labels is None:
            return seen.squeeze(1)
        return (seen * self.label(labels)).sum(1)


def pairs(x: Tensor) -> Tensor:
    """The mean of every two frames that follow each other: [B·T, C, H, W] -> [B·T/2, C, H, W]."""
    return x.unflatten(0, (-1, 2)).mean(1).contiguous(memory_format=torch.channels_last)


def block(width: int, gain: float, sides: tuple[int, int] = (3, 3)) -> Block:
    return Block(width, width, max(1, width // GROUP), gain, sides)


def pyramid(sides: tuple[int, int], width: int) -> tuple[tuple[int, int], list[int]]:
    """The coarsest height and width, and the channels from coarse to fine."""
    scales = natural_scales(*sides)
    shrink = 2 ** (scales - 1)
    widths = [width * min(2**i, 8) for i in range(scales)]
    return (sides[0] // shrink, sides[1] // shrink), widths[::-1]
