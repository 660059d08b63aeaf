"""StyleGAN2 with adaptive augmentation: styles that modulate convolutions, in plain PyTorch.

Sub-modules carry the names of the official state dicts, so importing official weights is copying them.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping as Dict
from typing import Any, TypeVar

from torch import Tensor, nn

from genloom.core import Card, Recipe, Result, Spec, build, register
from genloom.errors import UserError, unknown
from genloom.nn.style import Mapping
from genloom.nn.style_critic import Discriminator, freeze_first, square
from genloom.nn.style_generator import Generator, Synthesis
from genloom.nn.weights import load_exactly, translated, under
from genloom.objectives.style import StyleBased

ARCHITECTURES = ("orig", "skip", "resnet")


@register("stylegan2")
class StyleGAN2(StyleBased):
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
        "sample. Sampling uses the constant noise maps, so that an item depends on its seed alone. Lazy "
        "regularisation rescales Adam's rate, and leaves its betas.",
        results=(
            Result("FID", 2.42, "CIFAR-10, class-conditional", "figure 11"),
            Result("FID", 2.84, "FFHQ 1024x1024, without ADA", "StyleGAN2's table 1"),
        ),
    )
    recipes = {
        "tiny": Recipe(
            steps=12, batch_size=8, model={"latent": 8, "width": 8, "mapping_layers": 2, "channel_base": 64}
        ),
        "cpu": Recipe(
            minutes=3,
            batch_size=32,
            lr=5e-3,
            betas=(0.0, 0.99),
            ema=0.998,
            decay=0.3,
            model={
                "latent": 32,
                "width": 32,
                "mapping_layers": 2,
                "mapping_rate": 0.1,
                "channel_base": 512,
                "channel_max": 32,
                "architecture": "orig",
                "critic_mapping": 2,
                "gamma": 10.0,
                "path_length": 0.0,
                "mixing": 0.0,
            },
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
        super().__init__(spec, latent, conditional, augment, gamma, mixing, path_length)
        channels, size = square(spec)
        for name in (architecture, generator_architecture):
            if name not in ARCHITECTURES:
                raise unknown("architecture", name, ARCHITECTURES)
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

    @classmethod
    def from_reference(cls, weights: Dict[str, Tensor], config: Dict[str, Any]) -> StyleGAN2:
        """Official weights and keyword arguments: of "G_ema" and "D" under these names, or of one network alone.

        Raises UserError for an option that is not known and for the first key that differs.
        """
        return import_networks(cls, weights, config, generator_options, critic_options)


M = TypeVar("M", bound=StyleBased)
Translate = Callable[[Dict[str, Any]], dict[str, Any]]


def import_networks(
    cls: type[M], weights: Dict[str, Tensor], config: Dict[str, Any], generator: Translate, critic: Translate
) -> M:
    """Build for the official networks' own arguments and copy their weights. Evaluation mode."""
    alone = "D" if "img_resolution" in config and "z_dim" not in config else "G_ema"
    networks = {alone: config} if "img_resolution" in config else dict(config)
    if not networks or not all("img_resolution" in n for n in networks.values()):
        raise UserError(
            "The reference options name no network: give img_resolution, z_dim and the others it was made with."
        )
    ours: dict[str, Any] = {}
    for name, arguments in networks.items():
        mine = critic(arguments) if name == "D" else generator(arguments)
        if differing := [k for k in mine if k in ours and ours[k] != mine[k]]:
            raise UserError(f"G_ema and D were made with different '{differing[0]}': import one of them alone.")
        ours |= mine
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


def generator_options(arguments: Dict[str, Any]) -> dict[str, Any]:
    """The official generator's keyword arguments, and its defaults, as hyper-parameters of ours."""
    inner = arguments.get("synthesis_kwargs", {})
    return _options({k: v for k, v in arguments.items() if k != "synthesis_kwargs"} | inner, GENERATOR_OPTIONS, "G_ema")


def critic_options(arguments: Dict[str, Any]) -> dict[str, Any]:
    """The official discriminator's keyword arguments, and its defaults, as hyper-parameters of ours."""
    return _options(arguments, DISCRIMINATOR_OPTIONS, "D")


def _options(arguments: Dict[str, Any], table: dict[str, str], network: str) -> dict[str, Any]:
    known = {**table, **dict.fromkeys((*NUMBERLESS, "c_dim", "img_resolution", "img_channels"))}
    found = translated({"channel_base": 32768, "channel_max": 512} | dict(arguments), known, network)
    return {k: v for k, v in found.items() if v is not None or k == "clamp"}
