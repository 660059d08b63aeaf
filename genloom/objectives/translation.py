"""What models share that make a picture from a picture: where sources come from, and how patches are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from genloom import parallel
from genloom.core import Batch, Model, Spec, generator
from genloom.errors import UserError
from genloom.nn.translation import (
    NLayerDiscriminator,
    PixelDiscriminator,
    ResnetGenerator,
    UnetGenerator,
)
from genloom.nn.weights import arguments, load_exactly, under
from genloom.objectives.adversarial import find_objective, lipschitz_penalty

KEPT = 64  # sources that a model keeps of its data: as many as a grid shows samples
SHOWN = 32  # of them beside their results
PIECE = 16  # pictures made at a time: those of a translation are large


class Translator(Model):
    """Pictures [B, C, H, W] from a batch's `source` [B, C', H, W], both in [-1, 1]; `image` is the other side's.

    A subclass gives the networks and `translate`. Without a `source`, samples are made from sources of the training data
    that the model keeps: number i of the seed's own order.
    """

    modality = "image"
    conditions: ClassVar[tuple[str, ...]] = ("source",)

    def __init__(self, spec: Spec, *, objective: str, penalty: float):
        super().__init__(spec)
        self.objective, self.penalty = find_objective(objective), penalty
        self.softness = 2.0 if objective == "least_squares" else 1.0  # the papers' generators minimise (f - 1)² whole
        self.source_channels = int(spec.extra["source_channels"])
        self.sources = Sources(self.source_channels, *spec.shape[1:])

    def prepare(self, batch: Batch) -> None:
        self.sources.keep(batch["source"])

    def grid(self) -> int:
        return int(self.sources.count) or KEPT  # a source twice would look like a model that makes one picture twice

    def sheet(self, samples: Tensor, *, seed: int = 0) -> Tensor:
        """Each source and beside it what was made of it [2n, C, H, W]; grey beside colour becomes colour."""
        made = samples[:SHOWN]
        source = self.sources.take(len(made), seed, 0).cpu()
        channels = max(source.shape[1], made.shape[1])
        sides = [x.expand(-1, channels, -1, -1) if x.shape[1] == 1 else x[:, :channels] for x in (source, made)]
        if sides[0].shape != sides[1].shape:  # colour with and without alpha
            sides = [x[:, : min(s.shape[1] for s in sides)] for x in sides]
        return torch.stack(sides, 1).flatten(0, 1)

    def translate(self, source: Tensor, streams: list[torch.Generator], **options: Any) -> Tensor:
        """Pictures of sources [n, C', H, W]; whatever is random comes from the stream of each row."""
        raise NotImplementedError

    def sample_from(self, n: int, seed: int, start: int, source: str | Tensor | None, **options: Any) -> Tensor:
        """`translate` in pieces: of n sources, of one for all, or of those kept. Raises UserError for others."""
        if isinstance(source, str):
            raise UserError("sample takes sources as a tensor [n, C, H, W] here: genloom.sample reads paths.")
        given = self.sources.take(n, seed, start) if source is None else self._checked(n, source, **options)
        pieces = []
        for i in range(0, n, PIECE):
            streams = [generator(seed, start + j) for j in range(i, min(i + PIECE, n))]
            pieces.append(self.translate(given[i : i + PIECE].to(self.device), streams, **options).float())
        return torch.cat(pieces)

    def channels_in(self, **options: Any) -> int:
        """The channels that `translate` takes under these options."""
        return self.source_channels

    def _checked(self, n: int, source: Tensor, **options: Any) -> Tensor:
        channels = self.channels_in(**options)
        if source.ndim != 4 or source.shape[1] != channels:
            raise UserError(f"Sources of this model are [n, {channels}, H, W], not {list(source.shape)}.")
        if len(source) not in (1, n):
            raise UserError(f"{n} samples need {n} sources or one for all, not {len(source)}.")
        return source.expand(n, -1, -1, -1)

    # losses
    def critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor, separate: bool) -> dict[str, Tensor]:
        """`discriminator` [B], halved as the papers do, and `penalty` [B]. `separate`: no batch holds real and fake."""
        r, f = (critic(real), critic(fake)) if separate else critic(torch.cat([real, fake])).chunk(2)
        terms = {"discriminator": 0.5 * self.softness * per_item(self.objective.critic(r.float(), f.float()))}
        if self.penalty:
            mix = parallel.rand(len(real), device=real.device)
            slope = lipschitz_penalty(lambda x: critic(x).float().flatten(1).mean(1), real, fake, mix)
            terms["penalty"] = self.penalty * slope
        return terms

    def fool(self, critic: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        """The generator's adversarial loss [B]; reals are judged only for an objective that pairs."""
        f = critic(fake).float()
        with torch.no_grad():
            r = critic(real).float() if self.objective.paired else f
        return self.softness * per_item(self.objective.generator(r, f))


def per_item(losses: Tensor) -> Tensor:
    """Mean over all but the first dimension: [B, ...] -> [B]."""
    return losses.flatten(1).mean(1)


class Sources(nn.Module):
    """Up to 64 sources of the data, no two alike, as bytes: what grids and reports show results of."""

    pictures: Tensor
    count: Tensor

    def __init__(self, channels: int, height: int, width: int):
        super().__init__()
        self.register_buffer("pictures", torch.zeros(KEPT, channels, height, width, dtype=torch.uint8))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def keep(self, source: Tensor) -> None:  # [B, C, H, W] in [-1, 1]
        pictures = ((source.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        unlike = torch.stack([*{x.numpy().tobytes(): x for x in pictures}.values()])
        some = unlike[torch.linspace(0, len(unlike) - 1, min(KEPT, len(unlike))).round().long()]
        self.pictures[: len(some)] = some
        self.count.fill_(len(some))

    def take(self, n: int, seed: int, start: int) -> Tensor:
        """[n, C, H, W]: source i is the i-th in the seed's own order. Raises UserError when none was kept."""
        count = int(self.count)
        if not count:
            raise UserError("This model makes pictures from pictures and keeps none of its data: give it a --source.")
        rounds = {i // count for i in range(start, start + n)}
        orders = {k: torch.randperm(count, generator=generator(seed, 1, k)) for k in rounds}
        rows = torch.stack([orders[i // count][i % count] for i in range(start, start + n)])
        return self.pictures[rows.to(self.pictures.device)].float() / 127.5 - 1


# ── networks by name ─────────────────────────────────────────────────────────────────────────────────────────────
def build_generator(
    kind: str, channels: tuple[int, int], side: int, *, width: int, norm: str, dropout: bool, depth: int, padding: str
) -> nn.Module:
    """From channels[0] to channels[1]: `unet` of `depth` halvings (0: all that the side allows, at most 8), or `resnet`
    of `depth` blocks (0: 9 from 256 pixels on, else 6). Raises UserError for another kind."""
    if kind == "unet":
        return UnetGenerator(*channels, depth or halvings(side), width, norm, dropout)
    if kind == "resnet":
        return ResnetGenerator(*channels, width, norm, dropout, depth or (9 if side >= 256 else 6), padding)
    raise UserError(f"--model.network must be unet or resnet, not '{kind}'.")


def build_critic(kind: str, channels: int, *, width: int, norm: str, layers: int) -> nn.Module:
    """`patch` of `layers` strided convolutions, or `pixel`. Raises UserError for another kind."""
    if kind == "patch":
        return NLayerDiscriminator(channels, width, layers, norm)
    if kind == "pixel":
        return PixelDiscriminator(channels, width, norm)
    raise UserError(f"--model.critic_network must be patch or pixel, not '{kind}'.")


def halvings(side: int) -> int:
    """How often a side halves, at most 8 times. Raises UserError where that is less than twice."""
    count = 0
    while count < 8 and side % 2 ** (count + 1) == 0:
        count += 1
    if count < 2:
        raise UserError(
            f"A U-Net halves its pictures: {side} pixels a side do not divide by 4; choose another --data.size."
        )
    return count


# ── the authors' names ───────────────────────────────────────────────────────────────────────────────────────────
NETWORKS: dict[str, dict[str, Any]] = {  # netG and netD of the authors' command line
    "resnet_9blocks": {"n_blocks": 9},
    "resnet_6blocks": {"n_blocks": 6},
    "unet_128": {"num_downs": 7},
    "unet_256": {"num_downs": 8},
    "basic": {"n_layers": 3},
    "n_layers": {},
    "pixel": {},
}
WITHOUT_EFFECT = (
    "netG",
    "netD",
    "init_type",
    "init_gain",
    "gpu_ids",
    "gpu_id",
)  # on the numbers, once weights are given
NORM_NAMES = {"BatchNorm2d": "batch", "InstanceNorm2d": "instance", "Identity": "none", None: "batch"}
GENERATOR = {"input_nc": 3, "output_nc": 3, "ngf": 64, "use_dropout": False}
DEFAULTS: dict[str, dict[str, Any]] = {  # of each kind of network, by the authors
    "unet": {**GENERATOR, "num_downs": 8},
    "resnet": {**GENERATOR, "n_blocks": 6, "padding_type": "reflect"},
    "patch": {"input_nc": 3, "ndf": 64, "n_layers": 3},
    "pixel": {"input_nc": 3, "ndf": 64},
}


class Part(NamedTuple):
    """One of the authors' networks: what kind it is, its keyword arguments in their names, every one, and its weights."""

    kind: str
    given: dict[str, Any]
    weights: Mapping[str, Tensor]


def reference_parts(
    weights: Mapping[str, Tensor], config: Mapping[str, Any], generators: Sequence[str], critics: Sequence[str]
) -> dict[str, Part]:
    """A flat checkpoint by the networks that its keys are prefixed with ("G_A." or "netG_A."), `config` by their names.

    Without prefixes it is the first of the generators or of the critics. Raises UserError for an unknown argument.
    """
    names = [*generators, *critics]
    found = {name: under(weights, f"{name}.") or under(weights, f"net{name}.") for name in names}
    if not any(found.values()):
        alone = (generators if kind_of(weights) in ("unet", "resnet") else critics)[0]
        found, config = {alone: dict(weights)}, {alone: config}
    return {name: reference_part(part, config.get(name, {}), name) for name, part in found.items() if part}


def reference_part(weights: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> Part:
    """One network and its arguments, those left out as they default. Raises UserError for one that it does not have."""
    kind = kind_of(weights)
    given = {**NETWORKS.get(str(config.get("netG", config.get("netD"))), {}), **config}
    if "n_layers_D" in given:
        given["n_layers"] = given.pop("n_layers_D")
    norm = given.pop("norm_layer", given.pop("norm", None))
    known = arguments(given, f"The {kind} network {name}", used=DEFAULTS[kind], fixed={}, ignored=WITHOUT_EFFECT)
    return Part(kind, {**known, "norm": NORM_NAMES.get(norm, norm)}, weights)


def kind_of(weights: Mapping[str, Tensor]) -> str:
    """`unet`, `resnet`, `pixel` or `patch`, by the names of the weights."""
    if any("conv_block" in k for k in weights):
        return "resnet"
    if any(k.startswith("net.") for k in weights):
        return "pixel"
    return "unet" if any(k.startswith("model.model.") for k in weights) else "patch"


def load_reference(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """`load_exactly`, past two changes of PyTorch: instance normalisation once kept statistics that nothing reads, and
    batch normalisation did not count its batches."""
    idle = tuple(f"{k}." for k, m in network.named_modules() if isinstance(m, nn.InstanceNorm2d))
    kept = {k: v for k, v in weights.items() if not (idle and k.startswith(idle))}
    counts = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    load_exactly(network, {**counts, **kept}, f"the {type(network).__name__} that the config describes")


def generator_options(part: Part) -> dict[str, Any]:
    """Our hyper-parameters for the authors' keyword arguments of a generator."""
    kind, given, _ = part
    options = {"network": kind, "width": given["ngf"], "norm": given["norm"], "dropout": given["use_dropout"]}
    if kind == "unet":
        return {**options, "depth": given["num_downs"]}
    return {**options, "depth": given["n_blocks"], "padding": given["padding_type"]}


def critic_options(part: Part) -> dict[str, Any]:
    """Our hyper-parameters for the authors' keyword arguments of a discriminator."""
    kind, given, _ = part
    options = {"critic_network": kind, "critic_width": given["ndf"], "critic_norm": given["norm"]}
    return options if kind == "pixel" else {**options, "layers": given["n_layers"]}


def reference_spec(channels: tuple[int, int], serves: tuple[str, ...], side: int = 256) -> Spec:
    """The data of the authors' models: sources of channels[0] to pictures of channels[1]."""
    return Spec("image", (channels[1], side, side), extra={"source_channels": channels[0], "serves": list(serves)})
