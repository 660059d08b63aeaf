"""BigGAN-deep: four times the layers in bottlenecks, and batch-norm statistics for each truncation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.core import Card, Recipe, Result, Spec, build, register
from genloom.errors import UserError
from genloom.models.image.biggan import double, pyramid
from genloom.nn.attention import SelfAttention, attention_sizes, halved
from genloom.nn.fold import double_then_conv
from genloom.nn.norm import StandingNorm, batch_norm
from genloom.nn.spectral import SpectralConv2d, SpectralEmbedding, SpectralLinear, StoredConv2d, StoredLinear
from genloom.nn.weights import arguments, load_exactly
from genloom.objectives.hinge import HingeGAN


@register("biggan_deep")
class BigGANDeep(HingeGAN):
    """`width` times 16 channels at the coarsest scale down to `width` at 128x128; four times `width` in small images.

    `attention`: sizes at which both networks have self-attention, "32_64", "none", "half" the picture's,
    or "auto": 64 where there is one.
    `statistics`: the truncations, evenly spaced in [0, 1], for which batch-norm statistics are kept: training fills all
    alike, `standing_statistics(truncation=t)` the ones that t is between. `eps`: that of batch normalisation.
    """

    card = Card(
        paper="Large Scale GAN Training for High Fidelity Natural Image Synthesis",
        authors="Brock, Donahue, Simonyan",
        year=2019,
        url="https://arxiv.org/abs/1809.11096",
        summary="BigGAN four times as deep, with bottlenecks and half the width: the published ImageNet generators.",
        changes="Any size divisible by 4: the depth follows it, 7x7 to 28x28 for digits; data without classes leave the "
        "class out. Both networks see the data's own class frequencies.",
        results=(
            Result("FID", 5.7, "ImageNet 128x128", "table 2"),
            Result("Inception score", 124.5, "ImageNet 128x128", "table 2"),
        ),
    )
    recipes = {
        "tiny": Recipe(
            steps=12,
            batch_size=16,
            model={"width": 4, "latent": 8, "attention": "half", "statistics": 3, "critic_steps": 1},
        ),
        "cpu": Recipe(
            minutes=3,
            batch_size=64,
            lr=5e-4,
            betas=(0.0, 0.99),
            decay=0.5,
            model={
                "width": 8,
                "latent": 32,
                "attention": "none",
                "critic_steps": 1,
                "generator_rate": 1.0,
                "augment": "diffaugment",
            },
        ),
        "default": Recipe(
            steps=100_000,
            batch_size=256,
            betas=(0.0, 0.999),
            ema=0.9999,
            decay=0.1,
            model={"critic_steps": 2, "generator_rate": 0.5},
        ),
        "paper": Recipe(steps=300_000, batch_size=2048, betas=(0.0, 0.999), ema=0.9999, model={"width": 128}),
    }
    soft_labels = True

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int = 128,
        width: int = 64,
        attention: str = "auto",
        statistics: int = 51,
        orthogonal: float = 1e-4,
        critic_steps: int = 2,
        generator_rate: float = 0.25,
        eps: float = 1e-4,
        conditional: bool = True,
        augment: str = "none",
    ):
        super().__init__(
            spec,
            latent=latent,
            conditional=conditional,
            augment=augment,
            critic_steps=critic_steps,
            generator_rate=generator_rate,
            orthogonal=orthogonal,
        )
        if statistics < 2:
            raise UserError(f"--model.statistics must be 2 or more, not {statistics}: truncations 0 and 1 are two.")
        attention = halved(attention, spec.shape)
        self.generator = DeepGenerator(
            spec.shape, latent, width, classes=self.classes, attention=attention, statistics=statistics, eps=eps
        )
        self.discriminator = DeepDiscriminator(spec.shape, width, classes=self.classes, attention=attention)
        self.initialise()

    def make_at(self, z: Tensor, labels: Tensor | None, truncation: float | None) -> Tensor:
        return self.generator(z, labels, truncation)

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> BigGANDeep:
        """A published generator in the layout of Hugging Face's `BigGAN`, and the fields of its `BigGANConfig`.

        Raises UserError for what does not fit. The discriminator, which was not published, is freshly initialised.
        """
        given = arguments(config, "BigGANConfig", used=PUBLISHED, fixed={})
        if given["z_dim"] != given["class_embed_dim"]:
            raise UserError(f"z_dim {given['z_dim']} and class_embed_dim {given['class_embed_dim']} must agree.")
        spec = Spec(
            "image", (3, given["output_dim"], given["output_dim"]), tuple(map(str, range(given["num_classes"])))
        )
        options = {
            "latent": given["z_dim"],
            "width": given["channel_width"],
            "attention": attention_of(given["layers"], given["attention_layer_position"], spec.shape),
            "statistics": given["n_stats"],
            "eps": given["eps"],
        }
        model = build(cls, spec, options)
        assert isinstance(model, BigGANDeep)
        model.config = options
        renamed = {
            k.removeprefix("generator.").replace(".snconv1x1_o_conv.", ".o.").replace(".snconv1x1_", "."): v
            for k, v in weights.items()
        }
        load_exactly(
            model.generator,
            {k: v.squeeze() if k.endswith(".gamma") else v for k, v in renamed.items()},
            "the generator",
        )
        return model.eval()


# ── the published layout ─────────────────────────────────────────────────────────────────────────────────────────
PUBLISHED: dict[str, Any] = {
    "output_dim": 128,
    "z_dim": 128,
    "class_embed_dim": 128,
    "channel_width": 128,
    "num_classes": 1000,
    "layers": None,
    "attention_layer_position": 8,
    "eps": 1e-4,
    "n_stats": 51,
}


def layers(channels: tuple[int, ...]) -> list[tuple[bool, int, int]]:
    """(doubles, channels in, channels out) of each block, two for each doubling; channels in widths."""
    return [block for a, b in pairwise(channels) for block in ((False, a, a), (True, a, b))]


def attention_of(given: Any, position: int, shape: tuple[int, ...]) -> str:
    """The `attention` option that a list of layers and the position among them ask for. Raises UserError for others."""
    (bottom, _), channels = pyramid(shape)
    ours = layers(channels)
    if given is not None and [tuple(layer) for layer in given] != ours:
        raise UserError(f"These layers are not those of the published generators for {shape[1]}x{shape[2]}.")
    if position >= len(ours):
        return "none"
    if position % 2 or position < 2:
        raise UserError(f"attention_layer_position {position} has no counterpart here: it follows a doubling.")
    return str(bottom << (position // 2))


# ── the generator ────────────────────────────────────────────────────────────────────────────────────────────────
class TruncationNorm(StandingNorm):
    """x [B, C, H, W] normalised by the statistics of a truncation, then scaled and shifted.

    With `condition` > 0 by 1 + scale(condition) and offset(condition), else by `weight` and `bias` [C].
    """

    running_means: Tensor
    running_vars: Tensor

    def __init__(self, channels: int, condition: int, statistics: int, eps: float):
        super().__init__()
        self.eps = eps
        self.conditional = condition > 0
        if self.conditional:
            self.scale = StoredLinear(condition, channels, bias=False)
            self.offset = StoredLinear(condition, channels, bias=False)
        else:
            self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_means", torch.zeros(statistics, channels))
        self.register_buffer("running_vars", torch.ones(statistics, channels))

    def forward(self, x: Tensor, condition: Tensor, truncation: float | None) -> Tensor:
        x = self.normalise(x, truncation)
        if not self.conditional:
            return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])
        scale, offset = self.scale(condition)[:, :, None, None], self.offset(condition)[:, :, None, None]
        return torch.addcmul(offset, x, 1 + scale)

    def normalise(self, x: Tensor, truncation: float | None) -> Tensor:
        lower, upper, share = self.between(1.0 if truncation is None else truncation)
        if not self.training:  # the lower row has the fraction: so the published statistics are used
            mean = torch.lerp(self.running_means[upper], self.running_means[lower], share)
            variance = torch.lerp(self.running_vars[upper], self.running_vars[lower], share)
            return batch_norm(x, mean, variance, training=False, eps=self.eps)
        mean, variance = self.running_means[lower].clone(), self.running_vars[lower].clone()
        x = batch_norm(x, mean, variance, training=True, momentum=self.momentum, eps=self.eps)
        rows = slice(None) if truncation is None else slice(lower, upper + 1)
        self.running_means[rows], self.running_vars[rows] = mean, variance
        return x

    def between(self, truncation: float) -> tuple[int, int, float]:
        """The rows that a truncation is between, the same twice when it is a row's own, and its fraction of the way."""
        place = truncation * (len(self.running_means) - 1)
        if abs(place - round(place)) < 1e-6:  # 0.58 * 50 is not quite 29
            return round(place), round(place), 0.0
        lower = math.floor(place)
        return lower, lower + 1, place - lower


class Bottleneck(nn.Module):
    """Four times BN, ReLU, conv (1x1, 3x3, 3x3, 1x1, a quarter as wide inside); x2 after the second ReLU.

    The shortcut has no weights: it keeps the first of the channels when there are fewer after.
    """

    def __init__(self, inputs: int, outputs: int, *, up: bool, condition: int, statistics: int, eps: float):
        super().__init__()
        self.outputs, self.up = outputs, up
        middle = max(inputs // 4, 1)
        self.bn_0 = TruncationNorm(inputs, condition, statistics, eps)
        self.bn_1, self.bn_2, self.bn_3 = (TruncationNorm(middle, condition, statistics, eps) for _ in range(3))
        self.conv_0 = StoredConv2d(inputs, middle, 1)
        self.conv_1 = StoredConv2d(middle, middle, 3, padding=1)
        self.conv_2 = StoredConv2d(middle, middle, 3, padding=1)
        self.conv_3 = StoredConv2d(middle, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor, truncation: float | None) -> Tensor:
        h = self.conv_0(F.relu(self.bn_0(x, condition, truncation)))
        h = F.relu(self.bn_1(h, condition, truncation))
        h = double_then_conv(self.conv_1, h) if self.up else self.conv_1(h)
        h = self.conv_2(F.relu(self.bn_2(h, condition, truncation)))
        h = self.conv_3(F.relu(self.bn_3(h, condition, truncation)))
        x = x[:, : self.outputs]
        return h + (double(x) if self.up else x)


class DeepGenerator(nn.Module):
    """Latents [B, Z] and labels [B] (or probabilities [B, classes]) -> images [B, C, H, W] in [-1, 1].

    Every norm sees the latent and the class's embedding. `truncation` picks the statistics in evaluation (none: those
    of 1), and in training the rows that are filled (none: all).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent: int,
        width: int,
        *,
        classes: int,
        attention: str,
        statistics: int,
        eps: float,
    ):
        super().__init__()
        bottom, channels = pyramid(shape)
        self.coarse = (*bottom, channels[0] * width)
        self.shape, self.classes = shape, classes
        self.embeddings = nn.Linear(classes, latent, bias=False) if classes else None
        condition = 2 * latent if classes else latent
        attended = attention_sizes(attention, [bottom[0] << i for i in range(1, len(channels))], "attention")
        self.gen_z = StoredLinear(condition, math.prod(self.coarse))
        self.layers = nn.ModuleList()
        size = bottom[0]
        for up, a, b in layers(channels):
            block = Bottleneck(a * width, b * width, up=up, condition=condition, statistics=statistics, eps=eps)
            self.layers.append(block)
            size = size * 2 if up else size
            if up and size in attended:
                self.layers.append(SelfAttention(b * width, StoredConv2d))
        last = channels[-1] * width
        self.bn = TruncationNorm(last, 0, statistics, eps)
        self.conv_to_rgb = StoredConv2d(last, max(last, shape[0]), 3, padding=1)  # those beyond the image's are dropped

    def forward(self, z: Tensor, labels: Tensor | None = None, truncation: float | None = None) -> Tensor:
        condition = z
        if self.embeddings is not None and labels is not None:
            known = labels if labels.is_floating_point() else F.one_hot(labels, self.classes).to(z.dtype)
            condition = torch.cat([z, self.embeddings(known).to(z.dtype)], 1)
        h = self.gen_z(condition).view(-1, *self.coarse).permute(0, 3, 1, 2)  # channels_last memory
        for layer in self.layers:
            h = layer(h, condition, truncation) if isinstance(layer, Bottleneck) else layer(h)
        h = self.conv_to_rgb(F.relu(self.bn(h, condition, truncation)))
        return h[:, : self.shape[0]].float().tanh()


# ── the discriminator ────────────────────────────────────────────────────────────────────────────────────────────
class BottleneckDown(nn.Module):
    """Four times ReLU, conv (1x1, 3x3, 3x3, 1x1, a quarter as wide inside); mean pooling before the last.

    The shortcut pools, and adds what channels it lacks by a 1x1 convolution (Brock et al. 2019, figure 16).
    """

    def __init__(self, inputs: int, outputs: int, *, down: bool):
        super().__init__()
        self.down = down
        middle = max(outputs // 4, 1)
        self.conv1 = SpectralConv2d(inputs, middle, 1)
        self.conv2 = SpectralConv2d(middle, middle, 3, padding=1)
        self.conv3 = SpectralConv2d(middle, middle, 3, padding=1)
        self.conv4 = SpectralConv2d(middle, outputs, 1)
        self.conv_sc = SpectralConv2d(inputs, outputs - inputs, 1) if outputs > inputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(x))
        h = self.conv2(F.relu(h))
        h = F.relu(self.conv3(F.relu(h)))
        if self.down:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        return self.conv4(h) + (x if self.conv_sc is None else torch.cat([x, self.conv_sc(x)], 1))


class DeepDiscriminator(nn.Module):
    """Images [B, C, H, W] and labels [B] -> logits [B]: ψ(h) + <e(label), h>; two blocks for each halving."""

    def __init__(self, shape: tuple[int, ...], width: int, *, classes: int, attention: str):
        super().__init__()
        (bottom, _), channels = pyramid(shape)
        rising = channels[::-1]
        attended = attention_sizes(attention, [bottom << i for i in range(1, len(channels))], "attention")
        blocks: list[nn.Module] = [SpectralConv2d(shape[0], rising[0] * width, 3, padding=1)]
        size = shape[1]
        for a, b in pairwise(rising):
            if size in attended:
                blocks.append(SelfAttention(a * width, SpectralConv2d))
            blocks += [
                BottleneckDown(a * width, b * width, down=True),
                BottleneckDown(b * width, b * width, down=False),
            ]
            size //= 2
        self.blocks = nn.Sequential(*blocks)
        self.linear = SpectralLinear(rising[-1] * width, 1)
        self.embed = SpectralEmbedding(classes, rising[-1] * width) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        h = self.blocks(images.contiguous(memory_format=torch.channels_last))
        h = F.relu(h).float().sum((2, 3))  # [B, C]
        logits = self.linear(h).squeeze(1)
        return logits if self.embed is None else logits + (self.embed(labels) * h).sum(1)
