"""pix2pix: a picture from a picture, learnt from pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genloom.core import Batch, Card, Phase, Recipe, Result, Spec, build, register
from genloom.nn.translation import noise
from genloom.objectives.translation import (
    Translator,
    build_critic,
    build_generator,
    critic_options,
    generator_options,
    load_reference,
    per_item,
    reference_parts,
    reference_spec,
)


@register("pix2pix")
class Pix2Pix(Translator):
    """A U-Net (or ResNet) that turns `source` into `image`, near in L1 and real to a critic that sees both.

    `network`: unet or resnet, `depth` its halvings or blocks (0: what suits the size), `width` its first channels;
    `critic_network`: patch (of `layers` strided convolutions) or pixel. `norm`: batch, instance or none; the critic's
    may differ. Dropout is the only noise: it stays on in sampling, drawn for each item from its seed.
    """

    card = Card(
        paper="Image-to-Image Translation with Conditional Adversarial Networks",
        authors="Isola, Zhu, Zhou, Efros",
        year=2017,
        url="https://arxiv.org/abs/1611.07004",
        summary="Turns pictures into other pictures, learnt from pairs: a U-Net, an L1 loss, and a critic of patches.",
        changes="Batch normalisation uses its running statistics in sampling, so that a picture does not depend on others; "
        "the U-Net is as deep as the size allows. The paper's jitter is of the data: --data.size 256 --data.jitter 286 "
        "--data.mirror.",
        results=(Result("per-pixel accuracy of FCN-8s", 0.66, "Cityscapes labels to photo", "table 1"),),
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=8, model={"width": 8, "critic_width": 8, "layers": 2}),
        "cpu": Recipe(
            minutes=3,
            batch_size=32,
            lr=5e-4,
            betas=(0.5, 0.999),
            ema=0.99,
            decay=0.5,
            model={"width": 24, "critic_width": 24, "layers": 2},
        ),
        "default": Recipe(steps=100_000, batch_size=16, betas=(0.5, 0.999), decay=0.5, model={"norm": "instance"}),
        "paper": Recipe(steps=80_000, batch_size=1, betas=(0.5, 0.999), ema=0.0, decay=0.5),
    }
    samples_with = ("generator", "sources")
    needs = "pairs"

    def __init__(
        self,
        spec: Spec,
        *,
        network: str = "unet",
        width: int = 64,
        depth: int = 0,
        norm: str = "batch",
        dropout: bool = True,
        padding: str = "reflect",
        critic_network: str = "patch",
        critic_width: int = 64,
        layers: int = 3,
        critic_norm: str | None = None,
        objective: str = "bce",
        reconstruction: float = 100.0,
        penalty: float = 0.0,
    ):
        super().__init__(spec, objective=objective, penalty=penalty)
        self.reconstruction = reconstruction
        critic_norm = critic_norm or norm
        self.separate = critic_norm == "batch"  # which would let the critic compare the real pictures with the made
        channels = (self.source_channels, spec.shape[0])
        self.generator = build_generator(
            network, channels, spec.shape[1], width=width, norm=norm, dropout=dropout, depth=depth, padding=padding
        )
        self.discriminator = build_critic(
            critic_network, sum(channels), width=critic_width, norm=critic_norm, layers=layers
        )

    def phases(self) -> list[Phase]:
        return [Phase("discriminator", ("discriminator",)), Phase("generator", ("generator",))]

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        source, real = batch["source"], batch["image"]
        fake = self.generator(source)
        if phase == "discriminator":
            pairs = torch.cat([source, real], 1), torch.cat([source, fake.detach()], 1)
            return self.critic_loss(self.discriminator, *pairs, self.separate)
        return {
            "generator": self.fool(self.discriminator, torch.cat([source, fake], 1), torch.cat([source, real], 1)),
            "l1": self.reconstruction * per_item((real - fake).abs()),
        }

    def critic(self, batch: Batch) -> Tensor | None:
        if "source" not in batch:
            return None  # it judges pairs
        return per_item(self.discriminator(torch.cat([batch["source"], batch["image"]], 1)).float())

    def sample(self, n: int, *, seed: int = 0, start: int = 0, source: str | Tensor | None = None) -> Tensor:
        """[n, C, H, W] in [-1, 1], of `source` [n or 1, C', H, W], else of sources that the model keeps.

        The seed decides dropout and, without a `source`, which are taken. Raises UserError for sources of another shape.
        """
        return self.sample_from(n, seed, start, source)

    def translate(self, source: Tensor, streams: list[torch.Generator], **options: Any) -> Tensor:
        with noise(self.generator, streams):
            return self.generator(source)

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Pix2Pix:
        """The authors' networks: a lone generator or discriminator, or both under "G." and "D."; `config` holds their
        keyword arguments, for both by those names. The spec's size is 256. Raises UserError for what does not fit."""
        parts = reference_parts(weights, config, ("G",), ("D",))
        model: dict[str, Any] = {}
        channels = (3, 3)
        if "D" in parts:
            both = parts["D"].given["input_nc"]
            channels = (both - both // 2, both // 2)
            model |= critic_options(parts["D"])
        if "G" in parts:
            given = parts["G"].given
            channels = (given["input_nc"], given["output_nc"])
            model = {"critic_norm": given["norm"], **model, **generator_options(parts["G"])}
        net = build(cls, reference_spec(channels, ("pairs", "domains")), model)
        for name, part in parts.items():
            load_reference(net.generator if name == "G" else net.discriminator, part.weights)
        return net.eval()
