"""StyleGAN3: no detail sticks to the pixel grid. `stylegan3` is configuration T; `--model.turning` makes it R."""

from __future__ import annotations

import math
from collections.abc import Mapping as Dict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genloom import parallel
from genloom.core import Card, Phase, Recipe, Result, Spec, register
from genloom.models.image.stylegan2 import NUMBERLESS, critic_options, import_networks
from genloom.nn.alias_free import Synthesis
from genloom.nn.style import Mapping
from genloom.nn.style_critic import Discriminator, freeze_first, square
from genloom.nn.style_generator import Generator
from genloom.nn.weights import translated
from genloom.objectives.style import StyleBased

ADAM: dict[str, Any] = {"lr": 2.5e-3, "betas": (0.0, 0.99), "ema": 0.998}
FADE = 200_000  # images over which the discriminator's first blur goes


@register("stylegan3")
class StyleGAN3(StyleBased):
    """Alias-free generator, StyleGAN2's discriminator, R1 every 16 steps.

    `turning`: configuration R, equivariant to rotation too: 1x1 convolutions of twice the width and radial filters.
    `blur`: the deviation in pixels of a blur that D sees its images through at first (R: 10).
    """

    card = Card(
        paper="Alias-Free Generative Adversarial Networks",
        authors="Karras, Aittala, Laine, Härkönen, Hellsten, Lehtinen, Aila",
        year=2021,
        url="https://arxiv.org/abs/2106.12423",
        summary="Every layer is a continuous signal: pictures move and turn with their details.",
        source="written from the paper; official weights can be imported, and NVIDIA's weights keep NVIDIA's own licence",
        changes="The discriminator's rate is the generator's (0.0025; the paper has 0.002 there). Sizes that are no power "
        "of two are centre crops of the next one's sampling grid.",
        results=(
            Result("FID", 2.79, "FFHQ 1024x1024, configuration T", "figure 5"),
            Result("FID", 3.07, "FFHQ 1024x1024, configuration R", "figure 5"),
        ),
    )
    seen: Tensor
    recipes = {
        "tiny": Recipe(
            steps=12,
            batch_size=8,
            model={"latent": 8, "width": 8, "channel_base": 64, "channel_max": 16, "depth": 4},
        ),
        "cpu": Recipe(
            minutes=3,
            batch_size=32,
            lr=5e-3,
            betas=(0.0, 0.99),
            decay=0.3,
            model={
                "latent": 32,
                "width": 32,
                "mapping_rate": 0.1,
                "channel_base": 512,
                "channel_max": 32,
                "depth": 4,
                "margin": 4,
                "clamp": None,
                "architecture": "orig",
                "critic_mapping": 2,
                "gamma": 10.0,
            },
        ),
        "default": Recipe(steps=150_000, batch_size=32, **ADAM, model={"augment": "ada"}),
        "paper": Recipe(steps=781_250, batch_size=32, **ADAM, model={"gamma": 32.8}),
    }

    def __init__(
        self,
        spec: Spec,
        *,
        latent: int = 512,
        width: int = 512,
        mapping_layers: int = 2,
        mapping_rate: float = 0.01,
        w_average: float = 0.998,
        channel_base: int = 32768,
        channel_max: int = 512,
        depth: int = 14,
        critical: int = 2,
        first_cutoff: float = 2.0,
        first_stopband: float = 2**2.1,
        last_stopband: float = 2**0.3,
        margin: int = 10,
        scale: float = 0.25,
        taps: int = 6,
        oversampling: int = 2,
        remember: float = 0.999,
        clamp: float | None = 256.0,
        turning: bool = False,
        architecture: str = "resnet",
        critic_base: int = 0,
        critic_max: int = 0,
        critic_mapping: int = 8,
        label_width: int = 0,
        group: int = 4,
        deviations: int = 1,
        conditional: bool = True,
        gamma: float = 0.0,
        blur: float = 0.0,
        mixing: float = 0.0,
        augment: str = "none",
        freeze: int = 0,
    ):
        super().__init__(spec, latent, conditional, augment, gamma, mixing)
        channels, size = square(spec)
        wide = 2 if turning else 1
        synthesis = Synthesis(
            width,
            size,
            channels,
            base=channel_base * wide,
            most=channel_max * wide,
            depth=depth,
            critical=critical,
            first_cutoff=first_cutoff,
            first_stopband=first_stopband,
            last_stopband=last_stopband,
            margin=margin,
            scale=scale,
            kernel=1 if turning else 3,
            taps=taps,
            oversampling=oversampling,
            radial=turning,
            clamp=clamp,
            remember=remember,
        )
        mapping = Mapping(latent, self.classes, width, mapping_layers, mapping_rate, average=w_average)
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
        )
        freeze_first(self.discriminator, freeze)
        self.first_blur = blur
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # real images that D was shown

    def paint(self, ws: Tensor) -> Tensor:
        return self.generator.synthesis(ws)

    def phases(self) -> list[Phase]:
        d = ("discriminator",)
        return [
            Phase("generator", ("generator",)),
            Phase("discriminator", d, lr=16 / 17),
            Phase("r1", d, every=16, lr=16 / 17),
        ]

    def critic_terms(self, real: Tensor, latents: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        self.seen += len(real) * parallel.world()
        return super().critic_terms(real, latents, labels)

    def judge(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        sigma = self.first_blur * max(0.0, 1 - int(self.seen) / FADE) if self.first_blur else 0.0
        return super().judge(blurred(images, sigma), labels)

    @classmethod
    def from_reference(cls, weights: Dict[str, Tensor], config: Dict[str, Any]) -> StyleGAN3:
        """Official weights and keyword arguments: of "G_ema" and "D" under these names, or of one network alone.

        Raises UserError for an option that is not known and for the first key that differs.
        """
        return import_networks(cls, weights, config, generator_options, critic_options)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images [B, C, H, W] through a Gaussian of deviation `sigma` / √(2 ln 2) pixels; below a third of a pixel, as they are."""
    reach = math.floor(3 * sigma)
    if reach == 0:
        return images
    taps = torch.arange(-reach, reach + 1, device=images.device).div(sigma).square().neg().exp2()
    weight = (taps / taps.sum()).to(images.dtype).expand(images.shape[1], 1, -1)
    for axis in (2, 3):
        kernel = weight.unsqueeze(5 - axis)
        pad = (reach, 0) if axis == 2 else (0, reach)
        images = F.conv2d(images, kernel, padding=pad, groups=images.shape[1])
    return images


OPTIONS = {
    "z_dim": "latent",
    "w_dim": "width",
    "mapping.num_layers": "mapping_layers",
    "mapping.lr_multiplier": "mapping_rate",
    "mapping.w_avg_beta": "w_average",
    "channel_base": "channel_base",
    "channel_max": "channel_max",
    "num_layers": "depth",
    "num_critical": "critical",
    "first_cutoff": "first_cutoff",
    "first_stopband": "first_stopband",
    "last_stopband_rel": "last_stopband",
    "margin_size": "margin",
    "output_scale": "scale",
    "filter_size": "taps",
    "lrelu_upsampling": "oversampling",
    "magnitude_ema_beta": "remember",
    "conv_clamp": "clamp",
    "use_radial_filters": "turning",
    **dict.fromkeys((*NUMBERLESS, "conv_kernel", "c_dim", "img_resolution", "img_channels")),
}


def generator_options(arguments: Dict[str, Any]) -> dict[str, Any]:
    """The official generator's keyword arguments, and its defaults, as hyper-parameters of ours."""
    ours = translated({"channel_base": 32768, "channel_max": 512} | dict(arguments), OPTIONS, "G_ema")
    if ours.get("turning"):
        ours |= {k: ours[k] // 2 for k in ("channel_base", "channel_max")}
    return ours
