"""R3GAN: a loss that converges by itself, so that the networks may be plain modern residual ones without tricks."""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.core import Card, Recipe, Result, Spec, build, register
from genloom.errors import UserError, nearest
from genloom.nn.conv import Conv2d
from genloom.nn.resample import downsample2d, upsample2d
from genloom.nn.weights import load_exactly, under
from genloom.objectives.adversarial import Conditional

SLOPE = 0.2  # of the leaky ReLUs
BETAS = (0.0, 0.99)
PAPER = {"widths": "768", "groups": "96", "gamma": 0.05, "gamma_end": 0.005, "projection": 768, "augment": "ada"}


@register("r3gan")
class R3GAN(Conditional):
    """Residual grouped convolutions on both sides, no normalisation, the relativistic pairing loss with R1 and R2.

    `widths`, `groups` and `blocks` hold one number for every scale, or as many as there are scales from coarse to fine
    ("256 128 64"); the discriminator mirrors the generator. One number leaves the count of scales to the picture's size:
    halved until a side is 7 or less. For pictures that want more scales than there are numbers, to come to 8 or less, the
    first is repeated. `expansion` times the width is what a block's grouped 3x3 convolution sees.
    `embedding` and `projection` are the sizes of a class in the generator and in the discriminator.
    Raises UserError for a size that cannot be halved so.
    """

    card = Card(
        paper="The GAN is dead; long live the GAN! A Modern Baseline GAN",
        authors="Huang, Gokaslan, Kuleshov, Tompkin",
        year=2024,
        url="https://arxiv.org/abs/2501.05441",
        summary="Reals paired with fakes, both slopes held near zero: a GAN that just trains, with nothing else added.",
        changes="Networks of any width and size that can be halved to 8 or less, where the paper starts from 4x4. "
        "gamma falls along the paper's cosine; Adam's second moment and the average's length are fixed and the rate falls "
        "linearly, where the paper schedules all three, and the strength of its augmentation too, which adapts here.",
        results=(
            Result("FID", 1.96, "CIFAR-10", "section 5"),
            Result("FID", 2.75, "FFHQ 256x256", "section 5"),
            Result("FID", 2.09, "ImageNet 64x64", "section 5"),
        ),
    )
    recipes = {
        "tiny": Recipe(
            steps=12, batch_size=16, betas=BETAS, model={"widths": "16", "groups": "2", "blocks": "1", "latent": 8}
        ),
        "cpu": Recipe(
            minutes=3,
            batch_size=32,
            lr=2e-3,
            betas=BETAS,
            ema=0.998,
            decay=0.6,
            model={
                "widths": "64 32 16",
                "groups": "8 4 2",
                "blocks": "1",
                "expansion": 1,
                "gamma": 10.0,
                "gamma_end": 1.0,
            },
        ),
        "default": Recipe(
            steps=100_000,
            batch_size=128,
            lr=5e-4,
            betas=BETAS,
            decay=0.5,
            model={"widths": "192", "groups": "24", "gamma_end": 0.1},
        ),
        "paper": Recipe(steps=390_000, batch_size=512, betas=BETAS, ema=0.9999, decay=0.75, model=PAPER),
    }

    config: dict[str, Any]  # set where it is not the caller's: imported weights bring their own

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int = 64,
        widths: str = "96",
        groups: str = "12",
        blocks: str = "2",
        expansion: int = 2,
        gamma: float = 1.0,
        gamma_end: float | None = None,
        conditional: bool = True,
        embedding: int = 64,
        projection: int = 64,
        augment: str = "none",
    ):
        super().__init__(
            spec,
            latent=latent,
            objective="relativistic",
            gamma=gamma,
            gamma_end=gamma_end,
            conditional=conditional,
            augment=augment,
        )
        plan = Plan.of(spec.shape, widths, groups, blocks, expansion)
        self.generator = Generator(plan, latent, self.classes, embedding)
        self.discriminator = Discriminator(plan, self.classes, projection)

    def sample(self, n: int, *, seed: int = 0, start: int = 0, label: int | Tensor | None = None) -> Tensor:
        """[n, C, H, W] in [-1, 1]; without `label` the classes come in turn. Raises UserError for an unknown class."""
        return super().sample(n, seed=seed, start=start, label=label).clamp(-1, 1)  # the networks know no bounds

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> R3GAN:
        """The official state dict of one network under its keyword arguments, or of both: {"G_ema": …, "D": …}.

        Both: weights' keys begin by those names; the official trainer's own prefix `Model.` and its arguments
        `c_dim`, `img_resolution` and `FP16Stages` are understood. Raises UserError for what differs.
        """
        if "WidthPerStage" in config:
            name = "G_ema" if "NoiseDimension" in config else "D"
            config, weights = {name: config}, {f"{name}.{k}": v for k, v in weights.items()}
        networks = {"G": "generator", "G_ema": "generator", "D": "discriminator"}
        held = {name: under(weights, f"{name}.") for name in networks if name in config}
        held = {name: under(w, "Model.") or w for name, w in held.items()}
        spec, options = reference_options(held, config)
        model = build(cls, spec, options)
        assert isinstance(model, R3GAN)
        model.config = options
        for name, own in held.items():
            load_exactly(model.get_submodule(networks[name]), own, f"r3gan's {networks[name]}")
        return model.eval()


class Plan(NamedTuple):
    """Scales from coarse to fine: channels, groups and blocks of each, and the coarsest one's height and width."""

    widths: tuple[int, ...]
    groups: tuple[int, ...]
    blocks: tuple[int, ...]
    expansion: int
    base: tuple[int, int]
    colours: int

    @classmethod
    def of(cls, shape: tuple[int, ...], widths: str, groups: str, blocks: str, expansion: int) -> Plan:
        """Read the options for pictures of this shape. Raises UserError with what is possible."""
        colours, height, breadth = shape
        texts = {"widths": widths, "groups": groups, "blocks": blocks}
        lists = {name: numbers(name, text) for name, text in texts.items()}
        listed = {name: len(v) for name, v in lists.items() if len(v) > 1}
        if len(set(listed.values())) > 1:
            raise UserError(
                f"r3gan needs as many of each a scale, not {', '.join(f'{v} {k}' for k, v in listed.items())}."
            )
        needed = 1 + max(math.ceil(math.log2(min(height, breadth) / 8)), 0)  # to come to a side of 8 or less
        scales = max(needed, next(iter(listed.values()), 0) or natural_scales(height, breadth))
        shrink = 2 ** (scales - 1)
        if height % shrink or breadth % shrink:
            raise UserError(
                f"r3gan cannot halve {height}x{breadth} {scales - 1} times: {possible(height, breadth, shrink)}."
            )
        full = {name: v[:1] * (scales - len(v)) + v for name, v in lists.items()}
        for w, g in zip(full["widths"], full["groups"], strict=True):
            if w * expansion % g:
                raise UserError(f"r3gan cannot share {w} x {expansion} channels among {g} groups: choose a divisor.")
        base = (height // shrink, breadth // shrink)
        return cls(full["widths"], full["groups"], full["blocks"], expansion, base, colours)


def numbers(name: str, text: str) -> tuple[int, ...]:
    parts = [p for p in re.split(r"[\s,]+", str(text)) if p]
    if not parts or not all(p.isdigit() and int(p) for p in parts):
        raise UserError(f"r3gan's {name} are one whole number, or one a scale such as \"256 128 64\", not '{text}'.")
    return tuple(int(p) for p in parts)


def natural_scales(height: int, breadth: int) -> int:
    scales = 1
    while height % 2 == 0 and breadth % 2 == 0 and min(height, breadth) > 7:
        height, breadth, scales = height // 2, breadth // 2, scales + 1
    return scales


def possible(height: int, breadth: int, step: int) -> str:
    """The nearest sizes that work, for a message: multiples of what the sides are divided by."""
    low, high = ([max(f(s / step), 1) * step for s in (height, breadth)] for f in (math.floor, math.ceil))
    return f"use {low[0]}x{low[1]} or {high[0]}x{high[1]}"


# ── the networks: modules are named as in the official state dicts, so that those load as they are ───────────────────
class Generator(nn.Module):
    """Latents [B, Z] (and labels [B]) -> images [B, C, H, W]: unbounded, as the paper's."""

    def __init__(self, plan: Plan, latent: int, classes: int, embedding: int):
        super().__init__()
        if classes:
            self.EmbeddingLayer = linear(classes, embedding, gain=math.sqrt(classes))  # a class has unit variance
        told = latent + (embedding if classes else 0)
        first = [Basis(told, plan.widths[0], plan.base), *(Up(i, o) for i, o in pairwise(plan.widths))]
        self.MainLayers = nn.Sequential(*(stage(layer, *blocks(plan, i)) for i, layer in enumerate(first)))
        self.AggregationLayer = convolution(plan.widths[-1], plan.colours, 1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:  # [B, Z], [B]
        if labels is not None:
            z = torch.cat([z, F.embedding(labels, self.EmbeddingLayer.weight.T)], 1)
        return self.AggregationLayer(self.MainLayers(z)).float()


class Discriminator(nn.Module):
    """Images [B, C, H, W] (and labels [B]) -> logits [B]: with classes, the projection of the features on the class."""

    def __init__(self, plan: Plan, classes: int, projection: int):
        super().__init__()
        if classes:
            self.EmbeddingLayer = linear(classes, projection, gain=math.sqrt(classes / projection))
        self.ExtractionLayer = convolution(plan.colours, plan.widths[-1], 1)
        last = [Summary(plan, projection if classes else 1), *(Down(i, o) for o, i in pairwise(plan.widths))]
        stages = [stage(*blocks(plan, i), layer) for i, layer in enumerate(last)]
        self.MainLayers = nn.Sequential(*stages[::-1])

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:  # [B, C, H, W], [B]
        x = self.MainLayers(self.ExtractionLayer(images.contiguous(memory_format=torch.channels_last)))
        if labels is None:
            return x.squeeze(1)
        return (x * F.embedding(labels, self.EmbeddingLayer.weight.T)).sum(1)


def stage(*layers: nn.Module) -> nn.Module:
    """One scale: a transition and residual blocks, in the order given."""
    return nn.Sequential(OrderedDict(Layers=nn.Sequential(*layers)))


def blocks(plan: Plan, scale: int) -> list[nn.Module]:
    """Fix-up: of L residual branches of three layers each, the last starts at zero and the others L^(-1/4) smaller."""
    width, gain = plan.widths[scale], sum(plan.blocks) ** -0.25
    return [Block(width, width * plan.expansion, plan.groups[scale], gain) for _ in range(plan.blocks[scale])]


class Block(nn.Module):
    """x + 1x1 ∘ leaky ∘ grouped 3x3 ∘ leaky ∘ 1x1 (x), [B, C, H, W]: the inverted bottleneck. Starts as the identity."""

    def __init__(self, width: int, inner: int, groups: int, gain: float):
        super().__init__()
        gain *= math.sqrt(2 / (1 + SLOPE**2))  # He's, for leaky ReLU
        self.LinearLayer1 = convolution(width, inner, 1, gain=gain)
        self.LinearLayer2 = convolution(inner, inner, 3, groups=groups, gain=gain)
        self.LinearLayer3 = convolution(inner, width, 1, gain=0.0)
        self.NonLinearity1, self.NonLinearity2 = BiasedLeaky(inner), BiasedLeaky(inner)

    def forward(self, x: Tensor) -> Tensor:
        y = self.NonLinearity1(self.LinearLayer1(x))
        y = self.NonLinearity2(self.LinearLayer2(y))
        return x + self.LinearLayer3(y)


class Basis(nn.Module):
    """Latents [B, Z] -> [B, C, H, W] at the coarsest scale: a learnt picture a channel, scaled by a linear map of z."""

    def __init__(self, latent: int, width: int, base: tuple[int, int]):
        super().__init__()
        self.Basis = nn.Parameter(torch.randn(width, *base))
        self.LinearLayer = linear(latent, width)

    def forward(self, z: Tensor) -> Tensor:
        x = self.Basis * self.LinearLayer(z)[:, :, None, None]
        return x.contiguous(memory_format=torch.channels_last)  # what convolutions are fastest in


class Summary(nn.Module):
    """[B, C, H, W] at the coarsest scale -> [B, out]: each channel against a learnt picture of its own, then a linear map."""

    def __init__(self, plan: Plan, out: int):
        super().__init__()
        width = plan.widths[0]
        self.Basis = nn.Conv2d(width, width, plan.base, groups=width, bias=False)
        scaled_normal(self.Basis.weight)
        self.LinearLayer = linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        seen = (x * self.Basis.weight[:, 0].to(x.dtype)).sum((2, 3))  # as convolving it, and faster
        return self.LinearLayer(seen)


class Transition(nn.Module):
    """A change of scale by two through the kernel [1, 3, 3, 1], and of channels by a 1x1 convolution where they differ."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.LinearLayer = convolution(i, o, 1) if i != o else nn.Identity()
        self.Resampler = Resampler()


class Up(Transition):
    def forward(self, x: Tensor) -> Tensor:  # [B, I, H, W] -> [B, O, 2H, 2W]
        return upsample2d(self.LinearLayer(x), self.Resampler.Kernel)


class Down(Transition):
    def forward(self, x: Tensor) -> Tensor:  # [B, I, H, W] -> [B, O, H/2, W/2]
        return self.LinearLayer(downsample2d(x, self.Resampler.Kernel))


class Resampler(nn.Module):
    """Holds the kernel: one of the official state dict's buffers."""

    Kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        side = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("Kernel", torch.outer(side, side))


def convolution(i: int, o: int, size: int, groups: int = 1, gain: float = 1.0) -> nn.Module:
    """A convolution without bias that keeps the size, its weights normal with deviation gain / √fan-in."""
    layer = Conv2d(i, o, size, padding=size // 2, groups=groups, bias=False)
    scaled_normal(layer.weight, gain)
    return nn.Sequential(OrderedDict(Layer=layer))


class BiasedLeaky(nn.Module):
    """Leaky ReLU of x + bias."""

    def __init__(self, width: int):
        super().__init__()
        self.Bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        return F.leaky_relu(x + self.Bias.to(x.dtype).view(-1, 1, 1), SLOPE)


def linear(i: int, o: int, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(i, o, bias=False)
    scaled_normal(layer.weight, gain)
    return layer


def scaled_normal(weight: Tensor, gain: float = 1.0) -> None:
    nn.init.normal_(weight, 0, gain / math.sqrt(weight[0].numel()))


# ── the official names ───────────────────────────────────────────────────────────────────────────────────────────────
LISTS = {"widths": "WidthPerStage", "groups": "CardinalityPerStage", "blocks": "BlocksPerStage"}
FIXED = {"KernelSize": 3, "ResamplingFilter": [1, 2, 1]}
TRAINER = {"FP16Stages", "img_resolution", "c_dim"}  # precision, and what the weights say themselves
KNOWN = {"NoiseDimension", "ExpansionFactor", "ConditionDimension", "ConditionEmbeddingDimension", *LISTS.values()}


def reference_options(
    held: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Mapping[str, Any]]
) -> tuple[Spec, dict[str, Any]]:
    """The Spec and our hyper-parameters of the official weights and keyword arguments by network. Raises UserError."""
    if not held or set(config) != set(held):
        raise UserError("r3gan's config is one network's arguments, or a table of them under G, G_ema or D.")
    options: dict[str, Any] = {}
    shape: tuple[int, ...] | None = None
    for name, given in config.items():
        own = network_options(name, given)
        for key, value in own.items():
            if options.setdefault(key, value) != value:
                raise UserError(
                    f"r3gan's networks mirror each other: {key} is {options[key]} in one, {value} in {name}."
                )
        seen = picture_shape(name, given, held[name])
        if shape not in (None, seen):
            raise UserError(f"r3gan's networks are of one kind of picture, and these of {shape} and {seen}.")
        shape = seen
    assert shape is not None
    classes = options.pop("classes")
    return Spec("image", shape, tuple(map(str, range(classes)))), options | {"conditional": classes > 0}


def network_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Our hyper-parameters, and `classes`, of one network's official keyword arguments. Raises UserError."""
    for key, value in given.items():
        if key in FIXED and value != FIXED[key]:
            raise UserError(f"r3gan has a {key} of {FIXED[key]}, not {value}.")
        if key not in KNOWN | FIXED.keys() | TRAINER:
            raise UserError(f"r3gan's {name} has no argument '{key}'.{nearest(key, KNOWN)}")
    needed = [*LISTS.values(), "ExpansionFactor", *(["NoiseDimension"] if name != "D" else [])]
    if missing := [k for k in needed if k not in given]:
        raise UserError(f"r3gan's {name} needs the argument {missing[0]}.")
    options: dict[str, Any] = {k: " ".join(map(str, given[v][:: -1 if name == "D" else 1])) for k, v in LISTS.items()}
    options["expansion"] = given["ExpansionFactor"]
    options["classes"] = given.get("ConditionDimension") or given.get("c_dim") or 0
    if name != "D":
        options["latent"] = given["NoiseDimension"]
    if given.get("ConditionEmbeddingDimension"):
        options["projection" if name == "D" else "embedding"] = given["ConditionEmbeddingDimension"]
    return options


def picture_shape(name: str, given: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """(C, H, W) of the pictures that a network's weights are for. Raises UserError where they do not say."""
    stages = len(given["WidthPerStage"])
    if name == "D":
        colours, basis = "ExtractionLayer", f"MainLayers.{stages - 1}.Layers.{given['BlocksPerStage'][-1]}.Basis.weight"
    else:
        colours, basis = "AggregationLayer", "MainLayers.0.Layers.0.Basis"
    colours += ".Layer.weight"
    for key in (colours, basis):
        if key not in weights:
            raise UserError(f"These weights do not fit r3gan's {name}: '{key}' is missing.")
    return weights[colours].shape[name == "D"], *(int(s) << (stages - 1) for s in weights[basis].shape[-2:])
