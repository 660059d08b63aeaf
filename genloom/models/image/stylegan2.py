"""StyleGAN2 with adaptive augmentation: styles that modulate convolutions, in plain PyTorch.

Sub-modules carry the names of the official state dicts, so importing official weights is copying them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Batch, Card, Phase, Recipe, Result, Spec, build, register
from genloom.errors import UserError, unknown
from genloom.nn.style import Mapping
from genloom.nn.style_critic import Discriminator, freeze_first
from genloom.nn.style_generator import Generator, Synthesis
from genloom.nn.weights import load_exactly, translated, under
from genloom.objectives.adversarial import Conditional, score_and_slope

ARCHITECTURES = ("orig", "skip", "resnet")


@register("stylegan2")
class StyleGAN2(Conditional):
    """Non-saturating loss, R1 every 16 steps, path length every 4, style mixing, w averaged, ADA by `--model.augment ada`.

    `gamma` 0 is the paper's guess, 0.0002 · size² / 32. `clamp` bounds activations: 256 for --precision fp16.
    """

    card = Card(
        paper="Training Generative Adversarial Networks with Limited Data",
        authors="Karras, Aittala, Hellsten, Laine, Lehtinen, Aila",
        year=2020,
        url="https://arxiv.org/abs/2006.06676",
        summary="StyleGAN2 with adaptive augmentation: latents become styles that modulate every convolution.",
        source="written from the papers (StyleGAN2: https://arxiv.org/abs/1912.04958); official weights can be imported, "
        "and NVIDIA's weights keep NVIDIA's own licence",
        changes="Any size that doubles from 4, 5, 6 or 7 pixels. Scales sit on activations, never on the weights of each "
        "sample. Sampling uses the constant noise maps, so that an item depends on its seed alone.",
        results=(
            Result("FID", 2.84, "FFHQ 256x256 (StyleGAN2: 3.66 at 140k)", "table 2"),
            Result("FID", 2.42, "CIFAR-10, class-conditional", "figure 11b"),
        ),
    )
    recipes = {
        "tiny": Recipe(
            steps=12, batch_size=8, model={"latent": 8, "width": 8, "mapping_layers": 2, "channel_base": 64}
        ),
        "cpu": Recipe(
            minutes=3,
            batch_size=32,
            lr=2.5e-3,
            betas=(0.0, 0.99),
            ema=0.998,
            model={"latent": 64, "width": 64, "mapping_layers": 2, "channel_base": 1024, "channel_max": 64},
        ),
        "default": Recipe(
            steps=100_000,
            batch_size=32,
            lr=2.5e-3,
            betas=(0.0, 0.99),
            ema=0.998,
            model={"mapping_layers": 2, "augment": "ada"},
        ),
        "paper256": Recipe(
            steps=390_625, batch_size=64, lr=2.5e-3, betas=(0.0, 0.99), ema=0.9978, model={"group": 8, "gamma": 1.0}
        ),
        "paper512": Recipe(
            steps=390_625,
            batch_size=64,
            lr=2.5e-3,
            betas=(0.0, 0.99),
            ema=0.9978,
            model={"channel_base": 32768, "group": 8, "gamma": 0.5},
        ),
        "paper1024": Recipe(
            steps=781_250,
            batch_size=32,
            lr=2e-3,
            betas=(0.0, 0.99),
            ema=0.9978,
            model={"channel_base": 32768, "gamma": 2.0},
        ),
        "cifar": Recipe(
            steps=1_562_500,
            batch_size=64,
            lr=2.5e-3,
            betas=(0.0, 0.99),
            ema=0.99991,
            model={
                "mapping_layers": 2,
                "channel_base": 32768,
                "architecture": "orig",
                "group": 32,
                "gamma": 0.01,
                "mixing": 0.0,
                "path_length": 0.0,
                "augment": "ada",
            },
        ),
    }
    together = False  # the batch's deviation would compare reals with fakes
    conditions = ("label", "truncation", "cutoff")
    generator: Generator
    path_mean: Tensor

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int = 512,
        width: int = 512,
        mapping_layers: int = 8,
        mapping_width: int = 0,
        mapping_embed: int = 0,
        mapping_rate: float = 0.01,
        w_average: float = 0.995,
        channel_base: int = 16384,
        channel_max: int = 512,
        generator_architecture: str = "skip",
        noise: bool = True,
        clamp: float | None = None,
        architecture: str = "resnet",
        critic_base: int = 0,
        critic_max: int = 0,
        critic_mapping: int = 8,
        label_width: int = 0,
        group: int = 4,
        deviations: int = 1,
        taps: tuple[float, ...] = (1, 3, 3, 1),
        conditional: bool = True,
        gamma: float = 0.0,
        path_length: float = 2.0,
        mixing: float = 0.9,
        augment: str = "none",
        freeze: int = 0,
    ):
        super().__init__(spec, latent=latent, objective="bce", conditional=conditional, augment=augment)
        channels, size = square(spec)
        for name in (architecture, generator_architecture):
            if name not in ARCHITECTURES:
                raise unknown("architecture", name, ARCHITECTURES)
        self.r1 = gamma or 0.0002 * size**2 / 32
        self.path_length, self.mixing = path_length, mixing
        mapping = Mapping(
            latent, self.classes, width, mapping_layers, mapping_rate, mapping_embed, mapping_width, w_average
        )
        layers = {"noise": noise, "clamp": clamp}
        synthesis = Synthesis(width, size, channels, channel_base, channel_max, generator_architecture, taps, **layers)
        self.generator = Generator(mapping, synthesis, synthesis.layers)
        self.discriminator = Discriminator(
            size,
            channels,
            self.classes,
            critic_base or channel_base,
            critic_max or channel_max,
            architecture,
            clamp,
            label_width,
            group,
            deviations,
            {"layers": critic_mapping},
            taps,
        )
        freeze_first(self.discriminator, freeze)
        self.register_buffer("path_mean", torch.zeros(()))

    def phases(self) -> list[Phase]:
        """Lazy regularisation: a phase that runs every k-th step has k times the weight (Karras et al. 2020, section 3.1)."""
        g, d = ("generator",), ("discriminator",)
        path = [Phase("path_length", g, every=4, lr=4 / 5)] if self.path_length else []
        return [
            Phase("generator", g, lr=4 / 5 if path else 1.0),
            *path,
            Phase("discriminator", d, lr=16 / 17),
            Phase("r1", d, every=16, lr=16 / 17),
        ]

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        if phase == "r1":
            labels = self.labels(batch)
            _, slope = score_and_slope(lambda x: self.judge(x, labels), batch["image"])
            return {"r1": 16 * 0.5 * self.r1 * slope}
        if phase == "path_length":
            half = {k: v[: (len(v) + 1) // 2] for k, v in batch.items()}
            return {"path_length": 4 * self.path_length * self.path_term(len(half["image"]), self.labels(half)).mean()}
        return super().loss(batch, phase)

    def path_term(self, n: int, labels: Tensor | None) -> Tensor:
        """(‖Jᵀ y‖ - a)² [n], a the running mean: Karras et al. 2020, eq. 4."""
        ws = self.mixed(self.latents(n), self.weights(labels))
        y = self.randn(n, *self.spec.shape) / math.sqrt(math.prod(self.spec.shape[1:]))
        slope = torch.func.grad(lambda w: (self.generator.synthesis(w, "random") * y).sum())(ws)  # [n, L, W]
        lengths = slope.square().sum(2).mean(1).sqrt()
        mean = self.path_mean.lerp(parallel.mean(lengths.mean()), 0.01)
        self.path_mean.copy_(mean.detach())
        return (lengths - mean).square()

    def mixed(self, latents: Tensor, classes: Tensor | None) -> Tensor:
        """[B, L, W]: with probability `mixing` another latent's styles from a random layer on."""
        ws = self.generator.styles(latents, classes)
        if self.mixing and float(torch.rand(())) < self.mixing:
            layer = int(torch.randint(1, self.generator.layers, ()))
            other = self.generator.styles(self.latents(len(latents)), classes)
            ws = torch.cat([ws[:, :layer], other[:, layer:]], 1)
        return ws

    def make(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.generator.synthesis(self.mixed(latents, self.weights(labels)), "random")

    def weights(self, labels: Tensor | None) -> Tensor | None:
        """Labels [B], or weights of classes [B, K], as weights."""
        if labels is None or labels.is_floating_point():
            return labels
        return F.one_hot(labels, self.classes).float()

    def judge(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().judge(images, self.weights(labels))

    def critic(self, batch: Batch) -> Tensor:
        return self.discriminator(batch["image"], self.weights(self.labels(batch))).float()

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        start: int = 0,
        label: int | Tensor | None = None,
        truncation: float = 1.0,
        cutoff: int | None = None,
    ) -> Tensor:
        """[n, C, H, W] in [-1, 1]. `truncation` ψ in [-1, 1.5] draws styles to their mean, in the first `cutoff` layers.

        Raises UserError for an unknown class and for ψ or a cutoff out of range.
        """
        if not -1 <= truncation <= 1.5:
            raise UserError(f"Truncation must lie in [-1, 1.5], not {truncation:g}: 0.7 is usual, 1 is none.")
        layers = self.generator.layers
        if cutoff is not None and not 0 <= cutoff <= layers:
            raise UserError(f"The cutoff must lie in 0 to {layers}, the layers of this model, not {cutoff}.")
        z = self.item_noise(n, self.latent, seed=seed, start=start)
        classes = self.weights(self.wanted(n, label, start))
        images = self.generator.synthesis(self.generator.styles(z, classes, truncation, cutoff))
        return images.float().clamp(-1, 1)

    @classmethod
    def from_reference(cls, weights: Dict[str, Tensor], config: Dict[str, Any]) -> StyleGAN2:
        """Official weights and keyword arguments: of "G_ema" and "D" under these names, or of one network alone.

        Raises UserError for an option that is not known and for the first key that differs.
        """
        alone = "D" if "img_resolution" in config and "z_dim" not in config else "G_ema"
        networks = {alone: config} if "img_resolution" in config else dict(config)
        ours: dict[str, Any] = {}
        for name, arguments in networks.items():
            ours |= reference_options(name, arguments)
        first = next(iter(networks.values()))
        size, classes = first["img_resolution"], first.get("c_dim", 0)
        spec = Spec("image", (first["img_channels"], size, size), tuple(str(c) for c in range(classes)))
        model = build(cls, spec, ours)
        for name in networks:
            network: nn.Module = model.discriminator if name == "D" else model.generator
            load_exactly(network, weights if len(networks) == 1 else under(weights, f"{name}."), name)
        return model.eval()


NUMBERLESS = ("num_fp16_res", "fp16_channels_last", "fused_modconv_default", "channels_last")
GENERATOR_OPTIONS = {
    "z_dim": "latent",
    "w_dim": "width",
    "mapping.num_layers": "mapping_layers",
    "mapping.embed_features": "mapping_embed",
    "mapping.layer_features": "mapping_width",
    "mapping.lr_multiplier": "mapping_rate",
    "mapping.w_avg_beta": "w_average",
    "channel_base": "channel_base",
    "channel_max": "channel_max",
    "architecture": "generator_architecture",
    "resample_filter": "taps",
    "conv_clamp": "clamp",
    "use_noise": "noise",
}
DISCRIMINATOR_OPTIONS = {
    "architecture": "architecture",
    "channel_base": "critic_base",
    "channel_max": "critic_max",
    "conv_clamp": "clamp",
    "cmap_dim": "label_width",
    "mapping.num_layers": "critic_mapping",
    "block.freeze_layers": "freeze",
    "block.resample_filter": "taps",
    "epilogue.mbstd_group_size": "group",
    "epilogue.mbstd_num_channels": "deviations",
}


def reference_options(network: str, arguments: Dict[str, Any]) -> dict[str, Any]:
    """The official network's keyword arguments, and its defaults, as hyper-parameters of ours."""
    table = DISCRIMINATOR_OPTIONS if network == "D" else GENERATOR_OPTIONS
    known = {**table, **dict.fromkeys((*NUMBERLESS, "c_dim", "img_resolution", "img_channels"))}
    given = {k: v for k, v in arguments.items() if k != "synthesis_kwargs"} | arguments.get("synthesis_kwargs", {})
    given = {"channel_base": 32768, "channel_max": 512} | given
    found = translated(given, known, network)
    return {k: v for k, v in found.items() if v is not None or k == "clamp"}


def square(spec: Spec) -> tuple[int, int]:
    """Channels and size of square pictures. Raises UserError for others."""
    channels, height, width = spec.shape
    if height != width:
        raise UserError(
            f"StyleGAN2 makes square pictures, not {height}x{width}: give --data.size {min(height, width)}."
        )
    return channels, height
