"""CycleGAN: pictures of one kind into another and back, learnt without pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Batch, Card, Phase, Recipe, Result, Spec, build, register
from genloom.errors import UserError
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


@register("cyclegan")
class CycleGAN(Translator):
    """Two generators, G_A from `source` (A) to `image` (B) and G_B back, each judged by a critic of its results' kind.

    There and back again must be the picture it was (`cycle`, L1), and a generator shall leave its own kind alone
    (`identity`, times `cycle`). The critics see made pictures out of a pool of the last `pool`. Other hyper-parameters are
    those of pix2pix.
    """

    card = Card(
        paper="Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
        authors="Zhu, Park, Isola, Efros",
        year=2017,
        url="https://arxiv.org/abs/1703.10593",
        summary="Turns pictures of one kind into another and back, learnt from two piles without pairs.",
        changes="The critics step before the generators, not after. The paper's jitter is of the data: --data.size 256 "
        "--data.jitter 286 --data.mirror.",
        results=(Result("per-pixel accuracy of FCN-8s", 0.52, "Cityscapes labels to photo", "table 2"),),
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=8, model={"width": 4, "critic_width": 8, "layers": 2, "depth": 1}),
        "cpu": Recipe(
            minutes=3,
            batch_size=8,
            lr=5e-4,
            betas=(0.5, 0.999),
            ema=0.99,
            decay=0.5,
            model={"width": 12, "critic_width": 24, "layers": 2, "depth": 3},
        ),
        "default": Recipe(steps=100_000, batch_size=4, betas=(0.5, 0.999), decay=0.5),
        "paper": Recipe(steps=240_000, batch_size=1, betas=(0.5, 0.999), ema=0.0, decay=0.5),
    }
    samples_with = ("G_A", "G_B", "sources")
    conditions = ("source", "back")
    needs = "domains"

    def __init__(
        self,
        spec: Spec,
        *,
        network: str = "resnet",
        width: int = 64,
        depth: int = 0,
        norm: str = "instance",
        dropout: bool = False,
        padding: str = "reflect",
        critic_network: str = "patch",
        critic_width: int = 64,
        layers: int = 3,
        critic_norm: str | None = None,
        objective: str = "least_squares",
        cycle: float = 10.0,
        identity: float = 0.5,
        penalty: float = 0.0,
        pool: int = 50,
    ):
        super().__init__(spec, objective=objective, penalty=penalty)
        self.cycle, self.identity = cycle, identity
        a, b = self.source_channels, spec.shape[0]
        if identity and a != b:
            raise UserError(
                f"The identity loss needs as many channels in sources as in results, not {a} and {b}: set "
                "--model.identity 0, or give both --data.channels and --data.source-channels."
            )
        critic_norm = critic_norm or norm
        self.separate = critic_norm == "batch"  # which would let the critic compare the real pictures with the made

        def make(channels: tuple[int, int]) -> nn.Module:
            more = {"norm": norm, "dropout": dropout, "depth": depth, "padding": padding}
            return build_generator(network, channels, spec.shape[1], width=width, **more)  # type: ignore[arg-type]

        def judge(channels: int) -> nn.Module:
            return build_critic(critic_network, channels, width=critic_width, norm=critic_norm, layers=layers)

        self.G_A, self.G_B = make((a, b)), make((b, a))
        self.D_A, self.D_B = judge(b), judge(a)  # the authors' names: D_A judges what G_A makes
        self.pool_A, self.pool_B = Pool(pool, *spec.shape), Pool(pool, a, *spec.shape[1:])

    def phases(self) -> list[Phase]:
        return [Phase("discriminator", ("D_A", "D_B")), Phase("generator", ("G_A", "G_B"))]

    def loss(self, batch: Batch, phase: str) -> dict[str, Tensor]:
        a, b = batch["source"], batch["image"]
        fake_a, fake_b = self.G_B(b), self.G_A(a)
        if phase == "discriminator":
            ours = self.critic_loss(self.D_A, b, self.pool_A(fake_b.detach()), self.separate)
            back = self.critic_loss(self.D_B, a, self.pool_B(fake_a.detach()), self.separate)
            return {f"{k}_A": v for k, v in ours.items()} | {f"{k}_B": v for k, v in back.items()}
        terms = {
            "generator_A": self.fool(self.D_A, fake_b, b),
            "generator_B": self.fool(self.D_B, fake_a, a),
            "cycle": self.cycle * (distance(self.G_B(fake_b), a) + distance(self.G_A(fake_a), b)),
        }
        if self.identity:
            same = distance(self.G_A(b), b) + distance(self.G_B(a), a)
            terms["identity"] = self.identity * self.cycle * same
        return terms

    def critic(self, batch: Batch) -> Tensor:
        return per_item(self.D_A(batch["image"]).float())

    def sample(
        self, n: int, *, seed: int = 0, start: int = 0, source: str | Tensor | None = None, back: bool = False
    ) -> Tensor:
        """[n, C, H, W] in [-1, 1], of `source` [n or 1, C', H, W], else of sources that the model keeps.

        `back` turns pictures of the second kind into the first. Raises UserError for sources of another shape.
        """
        if back and source is None:
            raise UserError("The way back needs pictures to come from: give a --source.")
        return self.sample_from(n, seed, start, source, back=back)

    def channels_in(self, **options: Any) -> int:
        return self.spec.shape[0] if options.get("back") else self.source_channels

    def translate(self, source: Tensor, streams: list[torch.Generator], **options: Any) -> Tensor:
        network = self.G_B if options.get("back") else self.G_A
        with noise(network, streams):
            return network(source)

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> CycleGAN:
        """The authors' networks: a lone generator (G_A) or discriminator (D_A), or several under "G_A.", "G_B.", "D_A.",
        "D_B."; `config` holds their keyword arguments, for several by those names. The spec's size is 256.
        Raises UserError for what does not fit."""
        parts = reference_parts(weights, config, ("G_A", "G_B"), ("D_A", "D_B"))
        model: dict[str, Any] = {}
        a = b = 0
        for name, part in parts.items():
            given = part.given
            if name.startswith("G"):
                options, ends = generator_options(part), (given["input_nc"], given["output_nc"])
                a, b = ends if name == "G_A" else ends[::-1]
            else:
                options = critic_options(part)
                a, b = (a, b or given["input_nc"]) if name == "D_A" else (a or given["input_nc"], b)
            if clash := next((k for k, v in options.items() if model.get(k, v) != v), None):
                raise UserError(f"The two networks of each kind are built alike here: {clash} differs in {name}.")
            model |= options
        a, b = a or b, b or a
        model |= {} if a == b else {"identity": 0.0}
        net = build(cls, reference_spec((a, b), ("domains",)), model)
        for name, part in parts.items():
            load_reference(net.get_submodule(name), part.weights)
        return net.eval()


def distance(x: Tensor, y: Tensor) -> Tensor:
    """Mean absolute difference [B]."""
    return per_item((x - y).abs())


class Pool(nn.Module):
    """The last made pictures, out of which a critic is shown half of what it sees (Shrivastava et al. 2017).

    It holds the pictures of all ranks in order, drawn from alike on each: a resumed run holds what it held.
    """

    pictures: Tensor
    count: Tensor

    def __init__(self, size: int, channels: int, height: int, width: int):
        super().__init__()
        self.register_buffer("pictures", torch.zeros(size, channels, height, width))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, made: Tensor) -> Tensor:
        """[B, C, H, W] -> as many: each as it is while there is room, then one half of them exchanged for older ones."""
        size, count = len(self.pictures), int(self.count)
        if size == 0:
            return made
        rows = parallel.gather(made)
        coins, slots = torch.rand(len(rows)).tolist(), torch.randint(size, (len(rows),)).tolist()
        shown = rows.clone()
        for i, (coin, slot) in enumerate(zip(coins, slots, strict=True)):
            if count < size:
                self.pictures[count] = rows[i]
                count += 1
            elif coin < 0.5:
                shown[i] = self.pictures[slot]
                self.pictures[slot] = rows[i]
        self.count.fill_(count)
        return shown[parallel.my_rows(len(rows))]
