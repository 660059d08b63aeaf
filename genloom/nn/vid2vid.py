"""The networks of video-to-video translation (Wang et al. 2018), their parameters named as the authors name them.

A generator makes one frame from what its sources say and from the frames before it: a picture of its own, flow that moves
the last frame, and for each pixel how much of its own picture to take. Critics judge pictures, or frames with their flow,
at several sizes. `norm` is one of nn/translation.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genloom.errors import UserError
from genloom.nn.translation import ResnetBlock, check_divides, find_norm, initialise
from genloom.nn.warp import warp
from genloom.nn.weights import arguments, under

REACH = 20.0  # pixels of flow that an output of 1 stands for
PAINTS = 2.0  # logit of the raw picture's share at first: 88 %
WIDEST = 64  # channels that a critic's first layer has at most


class Frame(NamedTuple):
    """A frame as its generator made it: `image` and `raw` [B, C, H, W], the latter its own picture, without warping; `flow`
    [B, 2, H, W] in pixels and `weight` [B, 1, H, W], the raw picture's share, None without a frame before; and the
    features that a finer generator starts from."""

    image: Tensor
    raw: Tensor
    flow: Tensor | None
    weight: Tensor | None
    image_features: Tensor
    flow_features: Tensor | None


def split(frames: Frame, count: int) -> list[Frame]:
    """Frames of several clips, one after another along the batch, as `count` of them."""
    pieces = [(None,) * count if x is None else x.chunk(count) for x in frames]
    return [Frame(*(piece[i] for piece in pieces)) for i in range(count)]  # type: ignore[arg-type]


def down(channels: int, width: int, halvings: int, norm: str) -> list[nn.Module]:
    """A 7x7 convolution, then halvings that double the width."""
    layer, _ = find_norm(norm)
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(channels, width, 7), layer(width), nn.ReLU()]
    for i in range(halvings):
        wide = width * 2 ** (i + 1)
        layers += [nn.Conv2d(wide // 2, wide, 3, 2, 1), layer(wide), nn.ReLU()]
    return layers


def up(width: int, halvings: int, norm: str) -> list[nn.Module]:
    """Doublings that halve the width, down to `width`."""
    layer, _ = find_norm(norm)
    layers: list[nn.Module] = []
    for i in reversed(range(halvings)):
        wide = width * 2**i
        layers += [nn.ConvTranspose2d(2 * wide, wide, 3, 2, 1, output_padding=1), layer(wide), nn.ReLU()]
    return layers


def blocks(width: int, count: int, norm: str) -> list[nn.Module]:
    return [ResnetBlock(width, "reflect", norm, dropout=False, biased=True) for _ in range(count)]


def final(width: int, channels: int, *last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, channels, 7), *last)


class Painter(nn.Module):
    """What both generators end with: heads for the picture, the flow and the weight, and how they become a frame."""

    scale: int
    flow: bool
    model_final_img: nn.Module
    model_final_flow: nn.Module
    model_final_w: nn.Module

    def heads(self, width: int, output_nc: int, flow: bool) -> None:
        self.model_final_img = final(width, output_nc, nn.Tanh())
        if flow:
            self.model_final_flow, self.model_final_w = final(width, 2), final(width, 1, nn.Sigmoid())

    def begin(self) -> None:
        """New weights. At first nothing moves and nearly all is painted: what is not learnt yet spoils nothing then."""
        self.apply(initialise)
        if self.flow:
            for head, bias in ((self.model_final_flow, 0.0), (self.model_final_w, PAINTS)):
                nn.init.zeros_(head[1].weight)  # type: ignore[index]
                nn.init.constant_(head[1].bias, bias)  # type: ignore[index]

    def paint(
        self, image_features: Tensor, flow_features: Tensor | None, last: Tensor | None, skip: Tensor, bare: bool
    ) -> Frame:
        """`last` [B, C, H, W]: the frame before, None where there is none. `skip`: added to the picture, or 0. `bare`: only
        the features are asked for, by a finer generator."""
        if bare:
            return Frame(image_features[:, :0], image_features[:, :0], None, None, image_features, flow_features)
        raw = self.model_final_img(image_features) + skip
        if last is None or flow_features is None:
            return Frame(raw, raw, None, None, image_features, flow_features)
        flow, weight = self.flow_and_weight(flow_features)
        return Frame(raw * weight + warp(last, flow) * (1 - weight), raw, flow, weight, image_features, flow_features)

    def flow_and_weight(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Both heads as one convolution: as dear as one of them, for processors make eight channels or more at a time."""
        flow: Any = self.model_final_flow
        share: Any = self.model_final_w
        weight, bias = (torch.cat([getattr(flow[1], k), getattr(share[1], k)]) for k in ("weight", "bias"))
        both = F.conv2d(flow[0](features), weight, bias)
        return both[:, :2] * (REACH * 2**self.scale), both[:, 2:].sigmoid()


class CompositeGenerator(Painter):
    """The coarsest generator. Height and width divide by 2 to the `n_downsampling`.

    Without `prev_output_nc` it sees no frames before; without `flow` it never warps. `fg`: a branch of its own paints the
    foreground that a mask names.
    """

    scale = 0

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        prev_output_nc: int,
        ngf: int,
        n_downsampling: int,
        n_blocks: int,
        norm: str = "batch",
        flow: bool = True,
        fg: bool = False,
    ):
        super().__init__()
        self.halvings, self.flow = n_downsampling, flow and prev_output_nc > 0
        wide, late = ngf * 2**n_downsampling, n_blocks // 2

        def encoder(channels: int) -> nn.Sequential:
            return nn.Sequential(*down(channels, ngf, n_downsampling, norm), *blocks(wide, n_blocks - late, norm))

        self.model_down_seg = encoder(input_nc)
        self.model_down_img = encoder(prev_output_nc) if prev_output_nc else None
        self.model_res_img = nn.Sequential(*blocks(wide, late, norm))
        self.model_up_img = nn.Sequential(*up(ngf, n_downsampling, norm))
        if self.flow:
            self.model_res_flow = nn.Sequential(*blocks(wide, late, norm))
            self.model_up_flow = nn.Sequential(*up(ngf, n_downsampling, norm))
        self.heads(ngf, output_nc, self.flow)
        self.fg = fg
        if fg:
            thin = ngf // 2 if n_downsampling > 2 else ngf
            self.indv_down = nn.Sequential(*down(input_nc, thin, n_downsampling, norm))
            self.indv_res = nn.Sequential(*blocks(thin * 2**n_downsampling, n_blocks, norm))
            self.indv_up = nn.Sequential(*up(thin, n_downsampling, norm))
            self.indv_final = final(thin, output_nc, nn.Tanh())
        self.begin()

    def forward(
        self,
        source: Tensor,
        before: Tensor,
        warps: bool = True,
        mask: Tensor | None = None,
        skip: Tensor | None = None,
        bare: bool = False,
        memory: float = 1.0,
    ) -> Frame:
        """A frame from source [B, C', H, W] (those before it along the channels) and the frames before [B, K · C, H, W].

        `warps`: the last of those is there to be warped. `mask` [B, 1, H, W]: 1 where the foreground is. `memory`: how much
        of what those before say is listened to.
        """
        check_divides(source, 2**self.halvings)
        deep = self.model_down_seg(source)
        if self.model_down_img is not None and memory:
            deep = deep + memory * self.model_down_img(before)
        features = self.model_up_img(self.model_res_img(deep))
        moving = self.model_up_flow(self.model_res_flow(deep)) if self.flow and warps else None
        last = before[:, -self.channels :] if moving is not None else None
        frame = self.paint(features, moving, last, source.new_zeros(()) if skip is None else skip, bare)
        if bare or not self.fg or mask is None:
            return frame
        near = self.indv_final(self.indv_up(self.indv_res(self.indv_down(source))))
        image, raw = (near * mask + x * (1 - mask) for x in (frame.image, frame.raw))
        return frame._replace(image=image, raw=raw)

    @property
    def channels(self) -> int:
        return self.model_final_img[1].out_channels  # type: ignore[index]


class LocalGenerator(Painter):
    """A finer generator: twice the size of the one below, from whose features it starts. `scale`: how many are below."""

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        prev_output_nc: int,
        ngf: int,
        n_blocks_local: int,
        scale: int,
        norm: str = "batch",
        flow: bool = True,
    ):
        super().__init__()
        self.scale, self.flow, self.output_nc = scale, flow and prev_output_nc > 0, output_nc
        self.model_down_seg = nn.Sequential(*down(input_nc, ngf, 1, norm))
        self.model_down_img = nn.Sequential(*down(prev_output_nc, ngf, 1, norm)) if prev_output_nc else None
        self.model_up_img = nn.Sequential(*blocks(2 * ngf, n_blocks_local, norm), *up(ngf, 1, norm))
        if self.flow:
            self.model_up_flow = nn.Sequential(*blocks(2 * ngf, n_blocks_local, norm), *up(ngf, 1, norm))
        self.heads(ngf, output_nc, self.flow)
        self.begin()

    def forward(
        self,
        source: Tensor,
        before: Tensor,
        below: Frame,
        warps: bool = True,
        skip: Tensor | None = None,
        bare: bool = False,
        memory: float = 1.0,
    ) -> Frame:
        """As the coarsest generator's, with what the generator below made at half the size."""
        deep = self.model_down_seg(source)
        if self.model_down_img is not None and memory:
            deep = deep + memory * self.model_down_img(before)
        features = self.model_up_img(deep + below.image_features)
        moving = None
        if self.flow and warps:
            assert below.flow_features is not None
            moving = self.model_up_flow(deep + below.flow_features)
        last = before[:, -self.output_nc :] if moving is not None else None
        return self.paint(features, moving, last, source.new_zeros(()) if skip is None else skip, bare)


# ── critics ──────────────────────────────────────────────────────────────────────────────────────────────────────
class MultiscaleDiscriminator(nn.Module):
    """`num_D` critics of patches, each of pictures half the size of the last: as wide as the others at the coarsest,
    narrower the finer."""

    def __init__(self, input_nc: int, ndf: int, n_layers: int, norm: str = "batch", num_D: int = 2):
        super().__init__()
        self.count, self.layers = num_D, n_layers + 2
        for i in range(num_D):
            width = min(WIDEST, ndf * 2 ** (num_D - 1 - i))
            for j, layer in enumerate(self._layers(input_nc, width, n_layers, norm)):
                setattr(self, f"scale{i}_layer{j}", layer)
        self.apply(initialise)

    @staticmethod
    def _layers(channels: int, ndf: int, n_layers: int, norm: str) -> list[nn.Module]:
        layer, _ = find_norm(norm)
        found: list[nn.Module] = [nn.Sequential(nn.Conv2d(channels, ndf, 4, 2, 2), nn.LeakyReLU(0.2))]
        width = ndf
        for n in range(1, n_layers + 1):
            before, width = width, min(width * 2, 512)
            convolution = nn.Conv2d(before, width, 4, 2 if n < n_layers else 1, 2)
            found.append(nn.Sequential(convolution, layer(width), nn.LeakyReLU(0.2)))
        return [*found, nn.Sequential(nn.Conv2d(width, 1, 4, 1, 2))]

    def forward(self, x: Tensor) -> list[list[Tensor]]:  # [B, C, H, W]
        """For each size, the finest first, what each layer makes; the last of them are the logits [B, 1, h, w]."""
        found = []
        for i in reversed(range(self.count)):
            features = [x]
            for j in range(self.layers):
                features.append(getattr(self, f"scale{i}_layer{j}")(features[-1]))
            found.append(features[1:])
            if i:
                x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return found


# ── the authors' names ───────────────────────────────────────────────────────────────────────────────────────────
CRITICS = {"D": "image"} | {f"D_T{i}": f"time{i}" for i in range(3)}
NORM_NAMES = {"batch": "batch", "instance": "tracked", "none": "none"}
GENERATOR = {
    "netG": "composite",
    "input_nc": None,
    "output_nc": 3,
    "prev_output_nc": None,
    "ngf": 128,
    "n_downsample": 3,
    "n_blocks": 9,
    "n_blocks_local": 3,
    "norm": "batch",
    "fg": False,
    "no_flow": False,
    "scale": 0,
}
CRITIC = {"input_nc": None, "ndf": 64, "n_layers_D": 3, "norm": "batch", "num_D": 2, "getIntermFeat": True}
Parts = dict[str, tuple[Mapping[str, Tensor], dict[str, Any]]]


def reference_parts(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Parts:
    """A flat checkpoint by its networks, G0, G1 …, D, D_T0 …: of each the weights and the arguments, none left out.

    Without such prefixes it is one network, a generator or the critic of pictures. Raises UserError for an unknown
    argument.
    """
    names = [*(f"G{i}" for i in range(3)), *CRITICS]
    found = {name: under(weights, f"{name}.") for name in names}
    if not any(found.values()):
        alone = "D" if any(k.startswith(("layer", "scale")) for k in weights) else "G0"
        found, config = {alone: dict(weights)}, {alone: config}
    parts: Parts = {}
    for name, held in found.items():
        if held:
            used = GENERATOR if name[0] == "G" else CRITIC
            given = arguments(config.get(name, {}), f"The network {name}", used=used, fixed={}, ignored=("gpu_ids",))
            parts[name] = (held if name[0] == "G" else reference_critic(held), given)
    return parts


def reference_model(parts: Parts) -> tuple[dict[str, Any], tuple[int, int]]:
    """Our hyper-parameters for the authors' arguments, and the channels of sources and of pictures."""
    model: dict[str, Any] = {"skip": False, "statistics": "batch", "time_scales": sum("T" in name for name in parts)}
    channels = (3, 3)
    if "D" in parts:
        given = parts["D"][1]
        channels = (given["input_nc"] - 3, 3)
        model |= {"critic_width": given["ndf"], "critic_layers": given["n_layers_D"], "critic_scales": given["num_D"]}
        model["norm"] = NORM_NAMES[given["norm"]]
    if "G0" in parts:
        given, levels = parts["G0"][1], sum(name[0] == "G" for name in parts)
        previous = given["prev_output_nc"] // given["output_nc"]
        if given["input_nc"] % (previous + 1):
            raise UserError(
                f"A generator of {given['input_nc']} channels does not see {previous + 1} sources of a film, one a frame."
            )
        channels = (given["input_nc"] // (previous + 1), given["output_nc"])
        model |= {
            "width": given["ngf"] // 2 ** (levels - 1),
            "halvings": given["n_downsample"],
            "blocks": given["n_blocks"],
            "levels": levels,
            "local_blocks": parts["G1"][1]["n_blocks_local"] if "G1" in parts else 3,
            "previous": previous,
            "flow": not given["no_flow"],
            "foreground": (0,) if given["fg"] else (),
            "norm": NORM_NAMES[given["norm"]],
        }
    return model, channels


def reference_critic(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' other names, of a critic built without features to match: layerI.N counts all modules of a size in
    one row, scaleI_layerJ.M those of each layer in its own."""
    renamed = {}
    for name, value in weights.items():
        head, number, rest = name.split(".", 2)
        if not head.startswith("layer"):
            renamed[name] = value
            continue
        place = int(number)  # 0 a convolution, 1 a leaky ReLU; then a convolution, a norm, a leaky ReLU for each layer
        layer, inner = (0, place) if place < 2 else (1 + (place - 2) // 3, (place - 2) % 3)
        renamed[f"scale{head[5:]}_layer{layer}.{inner}.{rest}"] = value
    return renamed
