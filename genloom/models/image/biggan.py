"""BigGAN: residual networks under spectral normalisation, told the class in every block, sampled with truncation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom.core import Card, Model, Recipe, Result, Spec, build, register
from genloom.errors import UserError
from genloom.nn.attention import SelfAttention, attention_sizes, halved
from genloom.nn.fold import conv_then_halve, double_then_conv
from genloom.nn.norm import StandingNorm, batch_norm
from genloom.nn.spectral import SpectralConv2d, SpectralEmbedding, SpectralLinear
from genloom.nn.weights import arguments, load_exactly, under
from genloom.objectives.hinge import HingeGAN

Layer = Callable[..., Any]


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────
@register("biggan")
class BigGAN(HingeGAN):
    """`width` times 16 channels at the coarsest scale down to `width` at 128x128; four times `width` in small images.

    `critic_width`: the discriminator's (0: the same). `attention`: sizes after whose block there is self-attention,
    "32_64", "none", "half" the picture's, or "auto": 64 where there is one; `critic_attention`: the discriminator's, "same" for the same.
    `shared`: dimension of the class embedding that all layers share, 0 for one of each layer's own. `hierarchical`:
    each block sees a piece of the latent. `spectral`: normalise the generator's weights too. `wide`: the
    discriminator's blocks are as wide inside as at their end. `eps`: that of batch normalisation.
    """

    card = Card(
        paper="Large Scale GAN Training for High Fidelity Natural Image Synthesis",
        authors="Brock, Donahue, Simonyan",
        year=2019,
        url="https://arxiv.org/abs/1809.11096",
        summary="The class and a piece of the latent in every block, large batches, and truncation: variety for quality.",
        changes="Any size divisible by 4: the depth follows it, 7x7 to 28x28 for digits; data without classes leave the "
        "class out. Both networks see the data's own class frequencies. The penalty is the authors' release's, half the paper's.",
        results=(
            Result("FID", 8.7, "ImageNet 128x128", "table 2"),
            Result("Inception score", 98.8, "ImageNet 128x128", "table 2"),
        ),
    )
    recipes = {
        "tiny": Recipe(
            steps=12,
            batch_size=16,
            model={"width": 4, "latent": 12, "shared": 8, "attention": "half", "critic_steps": 1},
        ),
        "cpu": Recipe(
            minutes=3,
            batch_size=64,
            lr=1e-3,
            betas=(0.0, 0.99),
            decay=0.5,
            model={
                "width": 8,
                "latent": 60,
                "shared": 32,
                "attention": "none",
                "critic_steps": 1,
                "generator_rate": 0.5,
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
        "paper": Recipe(
            steps=300_000, batch_size=2048, betas=(0.0, 0.999), ema=0.9999, model={"width": 96, "latent": 120}
        ),
    }

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int = 128,
        width: int = 64,
        critic_width: int = 0,
        attention: str = "auto",
        critic_attention: str = "same",
        shared: int = 128,
        hierarchical: bool = True,
        spectral: bool = True,
        wide: bool = True,
        orthogonal: float = 1e-4,
        critic_steps: int = 2,
        generator_rate: float = 0.25,
        eps: float = 1e-5,
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
        if hierarchical and self.classes and not shared:
            raise UserError("A hierarchical latent needs the shared embedding: give --model.shared, or leave it out.")
        self.soft_labels = shared > 0
        attention, critic_attention = halved(attention, spec.shape), halved(critic_attention, spec.shape)
        self.generator = Generator(
            spec.shape,
            latent,
            width,
            classes=self.classes,
            shared=shared,
            hierarchical=hierarchical,
            attention=attention,
            spectral=spectral,
            eps=eps,
        )
        self.latent = self.generator.latent
        self.discriminator = Discriminator(
            spec.shape,
            critic_width or width,
            classes=self.classes,
            attention=attention if critic_attention == "same" else critic_attention,
            wide=wide,
        )
        self.initialise()

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Model:
        """Weights of the authors' PyTorch release, and the keyword arguments of its Generator and Discriminator.

        One network without a prefix, or several under "G.", "G_ema." and "D." with the arguments of each under its
        name; of "G" and "G_ema", which may share theirs, the latter is taken. Raises UserError for what does not fit.
        """
        if cls is not BigGAN:  # its relatives have fewer options than the release
            return super().from_reference(weights, config)
        if not any(k.startswith(("G.", "G_ema.", "D.")) for k in weights):
            name = "G" if "output_layer.2.weight" in weights else "D"
            weights, config = {f"{name}.{k}": v for k, v in weights.items()}, {name: config}
        made, judged = under(weights, "G_ema.") or under(weights, "G."), under(weights, "D.")
        given = {**config.get("G", {}), **config.get("G_ema", {})}
        g = arguments(given, "Generator", used=MAKER, fixed=MAKER_FIXED, ignored=IGNORED) if made else {}
        given = config.get("D", {})
        has_d = bool(judged) or not made
        d = arguments(given, "Discriminator", used=JUDGE, fixed=JUDGE_FIXED, ignored=IGNORED) if has_d else {}
        for key in set(g) & set(d):
            if g[key] != d[key]:
                raise UserError(f"These networks differ in {key}: {g[key]} and {d[key]}.")
        both = g or d
        spec = Spec("image", (3, both["resolution"], both["resolution"]), tuple(map(str, range(both["n_classes"]))))
        options = options_of(spec.shape, g, d)
        model = build(cls, spec, options)
        assert isinstance(model, BigGAN)
        model.config = options
        if made:
            load_exactly(model.generator, made, "the generator")
        if has_d:
            load_exactly(model.discriminator, judged, "the discriminator")
        return model.eval()


# ── the release's own names ──────────────────────────────────────────────────────────────────────────────────────
COMMON = {"resolution": 128, "n_classes": 1000}
MAKER = COMMON | {"G_ch": 64, "dim_z": 128, "G_attn": "64", "G_shared": True, "shared_dim": 0, "hier": False}
MAKER |= {"G_param": "SN", "BN_eps": 1e-5}
JUDGE = COMMON | {"D_ch": 64, "D_wide": True, "D_attn": "64"}
MAKER_FIXED = {"bottom_width": 4, "G_kernel_size": 3, "num_G_SVs": 1, "num_G_SV_itrs": 1, "norm_style": "bn"}
JUDGE_FIXED = {"D_kernel_size": 3, "num_D_SVs": 1, "num_D_SV_itrs": 1, "output_dim": 1, "D_param": "SN"}
MAKER_FIXED, JUDGE_FIXED = MAKER_FIXED | {"G_activation": "relu"}, JUDGE_FIXED | {"D_activation": "relu"}
IGNORED = {f"{net}_{x}" for net in "GD" for x in ("lr", "B1", "B2", "mixed_precision", "fp16", "init")}
IGNORED |= {"adam_eps", "SN_eps", "skip_init", "no_optim", "cross_replica", "mybn"}  # SN_eps guards a division by zero


def options_of(shape: tuple[int, ...], g: Mapping[str, Any], d: Mapping[str, Any]) -> dict[str, Any]:
    """This model's options for a generator's and a discriminator's arguments, either of which may be empty."""
    (bottom, _), channels = pyramid(shape)

    def attended(text: str, sizes: Collection[int]) -> str:
        return "_".join(w for w in text.split("_") if int(w) in sizes) or "none"

    options: dict[str, Any] = {"width": g.get("G_ch") or d["D_ch"], "attention": "none", "critic_attention": "none"}
    if g:
        options |= {
            "latent": g["dim_z"],
            "attention": attended(g["G_attn"], [bottom << i for i in range(1, len(channels))]),
            "shared": (g["shared_dim"] or g["dim_z"]) if g["G_shared"] else 0,
            "hierarchical": g["hier"],
            "spectral": g["G_param"] == "SN",
            "eps": g["BN_eps"],
        }
    if d:
        sizes = [size for _, _, size in critic_blocks(shape)]
        options |= {
            "critic_width": d["D_ch"],
            "critic_attention": attended(d["D_attn"], sizes),
            "wide": d["D_wide"],
        }
    return options


# ── sizes and channels ───────────────────────────────────────────────────────────────────────────────────────────
SMALL = 3  # up to so many doublings (32x32) all blocks have four times the width
CHANNELS = {4: (16, 16, 8, 4, 2), 5: (16, 16, 8, 4, 2, 1), 6: (16, 16, 8, 8, 4, 2, 1), 7: (16, 16, 8, 8, 4, 2, 1, 1)}


def pyramid(shape: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, ...]]:
    """The coarsest (height, breadth), 4 or more, and the channels there and after each doubling, in widths.

    Raises UserError for a size that cannot be halved twice.
    """
    height, breadth = shape[1:]
    if height % 4 or breadth % 4 or min(height, breadth) < 8:
        raise UserError(
            f"This model needs height and width divisible by 4, 8 or more, not {height}x{breadth}: choose another."
        )
    doublings = 0
    while height % 2 == 0 and breadth % 2 == 0 and min(height, breadth) >= 8:
        height, breadth, doublings = height // 2, breadth // 2, doublings + 1
    if doublings <= SMALL:
        return (height, breadth), (4,) * (doublings + 1)
    return (height, breadth), CHANNELS[min(doublings, 7)] + (1,) * (doublings - 7)


def critic_blocks(shape: tuple[int, ...]) -> list[tuple[int, bool, int]]:
    """The discriminator's blocks: channels in widths, whether it halves, and the height of what it gives."""
    _, channels = pyramid(shape)
    doublings = len(channels) - 1
    if doublings <= SMALL:
        plan = [(4, True), (4, True), (4, False), (4, False)]
    else:
        outs = (1, 2, 4, 8, 16) if doublings == 4 else channels[::-1]
        plan = [(c, i < doublings) for i, c in enumerate(outs)]
    heights = [shape[1] >> sum(down for _, down in plan[: i + 1]) for i in range(len(plan))]
    return [(c, down, height) for (c, down), height in zip(plan, heights, strict=True)]


# ── the generator ────────────────────────────────────────────────────────────────────────────────────────────────
class PlainNorm(StandingNorm):
    """x [B, C, H, W] normalised, times `gain` plus `bias` [C]; a condition is not looked at."""

    stored_mean: Tensor
    stored_var: Tensor
    gain: Any  # a parameter here, a layer in the conditional kind
    bias: Any

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.eps = eps
        self.gain, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def normalise(self, x: Tensor) -> Tensor:
        return batch_norm(
            x, self.stored_mean, self.stored_var, training=self.training, momentum=self.momentum, eps=self.eps
        )

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.addcmul(self.bias[:, None, None], self.normalise(x), self.gain[:, None, None])


class ConditionalNorm(PlainNorm):
    """x normalised, times 1 + gain(condition) plus bias(condition): `layer` maps a condition to [B, C]."""

    def __init__(self, channels: int, eps: float, layer: Callable[[int], nn.Module]):
        super().__init__(channels, eps)
        del self.gain, self.bias
        self.gain, self.bias = layer(channels), layer(channels)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        gain, bias = self.gain(condition)[:, :, None, None], self.bias(condition)[:, :, None, None]
        return torch.addcmul(bias, self.normalise(x), 1 + gain)


class UpBlock(nn.Module):
    """BN, ReLU, nearest x2, conv, BN, ReLU, conv; the shortcut is a 1x1 convolution, then nearest x2."""

    def __init__(self, inputs: int, outputs: int, norm: Layer, conv: Layer):
        super().__init__()
        self.bn1, self.bn2 = norm(inputs), norm(outputs)
        self.conv1 = conv(inputs, outputs, 3, padding=1)
        self.conv2 = conv(outputs, outputs, 3, padding=1)
        self.conv_sc = conv(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        h = double_then_conv(self.conv1, F.relu(self.bn1(x, condition)))
        h = self.conv2(F.relu(self.bn2(h, condition)))
        return h + double(self.conv_sc(x))  # a 1x1 convolution commutes with doubling: a quarter of the work


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0)


class Generator(nn.Module):
    """Latents [B, Z] and labels [B] (or probabilities [B, classes]) -> images [B, C, H, W] in [-1, 1].

    `latent` is the Z it takes: with a hierarchical latent cut down to one equal piece for the first layer and each block.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent: int,
        width: int,
        *,
        classes: int,
        shared: int,
        hierarchical: bool,
        attention: str,
        spectral: bool,
        eps: float,
    ):
        super().__init__()
        bottom, multiples = pyramid(shape)
        channels = [width * m for m in multiples]
        blocks = len(channels) - 1
        self.piece = latent // (blocks + 1) if hierarchical else latent
        self.latent = self.piece * (blocks + 1) if hierarchical else latent
        if self.piece < 1:
            raise UserError(f"A hierarchical latent needs --model.latent {blocks + 1} or more here, not {latent}.")
        self.coarse = (channels[0], *bottom)
        conv: Layer = SpectralConv2d if spectral else nn.Conv2d
        linear: Layer = SpectralLinear if spectral else nn.Linear
        self.shared = nn.Embedding(classes, shared) if classes and shared else None
        condition = (shared if self.shared is not None else 0) + (self.piece if hierarchical else 0)

        def norm(count: int) -> PlainNorm:
            if condition:
                return ConditionalNorm(count, eps, lambda c: linear(condition, c, bias=False))
            return ConditionalNorm(count, eps, lambda c: nn.Embedding(classes, c)) if classes else PlainNorm(count, eps)

        sizes = [bottom[0] << (i + 1) for i in range(blocks)]
        attended = attention_sizes(attention, sizes, "attention")
        self.linear = linear(self.piece, channels[0] * bottom[0] * bottom[1])
        self.blocks = nn.ModuleList()
        for i, size in enumerate(sizes):
            attention_layers = [SelfAttention(channels[i + 1], conv)] if size in attended else []
            self.blocks.append(nn.ModuleList([UpBlock(channels[i], channels[i + 1], norm, conv), *attention_layers]))
        self.output_layer = nn.Sequential(
            PlainNorm(channels[-1], eps), nn.ReLU(), conv(channels[-1], shape[0], 3, padding=1)
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        first, *rest = z.split(self.piece, 1)  # one piece where the latent is not hierarchical
        known = labels
        if self.shared is not None and labels is not None:
            known = labels @ self.shared.weight if labels.is_floating_point() else self.shared(labels)
        h = self.linear(first).view(-1, *self.coarse).contiguous(memory_format=torch.channels_last)
        for i, block in enumerate(self.blocks):
            condition = torch.cat([x for x in (known, rest[i]) if x is not None], 1) if rest else known
            for layer in block.children():
                h = layer(h, condition) if isinstance(layer, UpBlock) else layer(h)
        return self.output_layer(h).float().tanh()


# ── the discriminator ────────────────────────────────────────────────────────────────────────────────────────────
class DownBlock(nn.Module):
    """ReLU (but in the first block), conv, ReLU, conv, mean pooling; the shortcut pools, then a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, *, first: bool, down: bool, wide: bool):
        super().__init__()
        self.first, self.down = first, down
        hidden = outputs if wide else inputs
        self.conv1 = SpectralConv2d(inputs, hidden, 3, padding=1)
        self.conv2 = SpectralConv2d(hidden, outputs, 3, padding=1)
        self.conv_sc = SpectralConv2d(inputs, outputs, 1) if down or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x if self.first else F.relu(x)))
        h = conv_then_halve(self.conv2, h) if self.down else self.conv2(h)
        x = F.avg_pool2d(x, 2) if self.down else x  # pooling commutes with a 1x1 convolution: a quarter of the work
        return h + (x if self.conv_sc is None else self.conv_sc(x))


class Discriminator(nn.Module):
    """Images [B, C, H, W] and labels [B] -> logits [B]: ψ(h) + <e(label), h> (Miyato & Koyama 2018)."""

    def __init__(self, shape: tuple[int, ...], width: int, *, classes: int, attention: str, wide: bool):
        super().__init__()
        plan = critic_blocks(shape)
        attended = attention_sizes(attention, [size for _, _, size in plan], "critic-attention")
        self.blocks = nn.ModuleList()
        inputs = shape[0]
        for i, (multiple, down, size) in enumerate(plan):
            block: list[nn.Module] = [DownBlock(inputs, multiple * width, first=i == 0, down=down, wide=wide)]
            inputs = multiple * width
            self.blocks.append(
                nn.Sequential(*block, *([SelfAttention(inputs, SpectralConv2d)] if size in attended else []))
            )
        self.linear = SpectralLinear(inputs, 1)
        self.embed = SpectralEmbedding(classes, inputs) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        h = images.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            h = block(h)
        h = F.relu(h).float().sum((2, 3))  # [B, C]
        logits = self.linear(h).squeeze(1)
        return logits if self.embed is None else logits + (self.embed(labels) * h).sum(1)
