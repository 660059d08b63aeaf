"""The networks of image-to-image translation (Isola et al. 2017, Zhu et al. 2017), their parameters named as the authors name them.

Generators map pictures [B, C, H, W] to pictures in [-1, 1], critics to a map of logits [B, 1, h, w], one for each patch.
`norm` is "batch", "instance", "tracked" (instance, which in evaluation uses statistics kept in training) or "none".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from genloom import parallel
from genloom.errors import UserError, unknown
from genloom.nn.norm import BatchNorm, InstanceNorm

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm,
    "instance": InstanceNorm,  # without gains and without memory: the same in training and after
    "tracked": lambda channels: nn.InstanceNorm2d(channels, track_running_stats=True),
    "none": lambda channels: nn.Identity(),
}
PADDINGS: dict[str, type[nn.Module]] = {"reflect": nn.ReflectionPad2d, "replicate": nn.ReplicationPad2d}


def find_norm(name: str) -> tuple[Callable[[int], nn.Module], bool]:
    """What makes the layer, and whether convolutions before it have a bias (with instance normalisation alone).

    Raises UserError that offers the nearest name.
    """
    if name not in NORMS:
        raise unknown("normalisation", name, NORMS)
    return NORMS[name], name in ("instance", "tracked")


class Dropout(nn.Module):
    """Drops half of the activations in training, in step over ranks; afterwards none, but under `noise`."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: Sequence[torch.Generator] | None = None

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        if self.streams is not None:
            draw = torch.stack([torch.rand(x.shape[1:], generator=g) for g in self.streams]).to(x.device)
        elif self.training:
            draw = parallel.rand(*x.shape, device=x.device)
        else:
            return x
        return x * (2 * (draw < 0.5)).to(x.dtype)


@contextmanager
def noise(network: nn.Module, streams: Sequence[torch.Generator]) -> Iterator[None]:
    """Within, dropout stays on in evaluation: row i of a batch is dropped as the i-th stream says."""
    layers = [m for m in network.modules() if isinstance(m, Dropout)]
    for layer in layers:
        layer.streams = streams
    try:
        yield
    finally:
        for layer in layers:
            layer.streams = None


# ── generators ───────────────────────────────────────────────────────────────────────────────────────────────────
class ResnetGenerator(nn.Module):
    """Two halvings, `n_blocks` residual blocks, two doublings (Johnson et al. 2016). Height and width divide by 4."""

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        ngf: int = 64,
        norm: str = "batch",
        use_dropout: bool = False,
        n_blocks: int = 6,
        padding_type: str = "reflect",
    ):
        super().__init__()
        layer, bias = find_norm(norm)
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(input_nc, ngf, 7, bias=bias), layer(ngf), nn.ReLU()]
        for width in (ngf, 2 * ngf):
            layers += [nn.Conv2d(width, 2 * width, 3, 2, 1, bias=bias), layer(2 * width), nn.ReLU()]
        layers += [ResnetBlock(4 * ngf, padding_type, norm, use_dropout) for _ in range(n_blocks)]
        for width in (4 * ngf, 2 * ngf):
            up = nn.ConvTranspose2d(width, width // 2, 3, 2, 1, output_padding=1, bias=bias)
            layers += [up, layer(width // 2), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(ngf, output_nc, 7), nn.Tanh())
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        check_divides(x, 4)
        return self.model(x).float()


class ResnetBlock(nn.Module):
    """x plus two 3x3 convolutions of it, with dropout between if asked. `biased`: they have a bias whatever the norm."""

    def __init__(self, width: int, padding: str, norm: str, dropout: bool, biased: bool = False):
        super().__init__()
        if padding not in (*PADDINGS, "zero"):
            raise unknown("padding", padding, (*PADDINGS, "zero"))
        layer, bias = find_norm(norm)
        bias = bias or biased

        def convolution() -> list[nn.Module]:
            pad = [PADDINGS[padding](1)] if padding in PADDINGS else []
            return [*pad, nn.Conv2d(width, width, 3, padding=0 if pad else 1, bias=bias), layer(width)]

        between = [nn.ReLU(), Dropout()] if dropout else [nn.ReLU()]
        self.conv_block = nn.Sequential(*convolution(), *between, *convolution())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class UnetGenerator(nn.Module):
    """`num_downs` halvings and as many doublings, each level's input beside what comes back up to it.

    Widths are ngf, 2 ngf, 4 ngf, then 8 ngf; dropout is on the way up, between levels of full width. Height and width
    divide by 2 to the `num_downs`.
    """

    def __init__(
        self,
        input_nc: int,
        output_nc: int,
        num_downs: int,
        ngf: int = 64,
        norm: str = "batch",
        use_dropout: bool = False,
    ):
        super().__init__()
        if num_downs < 2:
            raise UserError(f"A U-Net halves its pictures twice or more, not {num_downs} times.")
        widths = [ngf * min(2**i, 8) for i in range(num_downs)]
        level = None
        for i in range(num_downs - 1, 0, -1):
            level = UnetBlock(widths[i - 1], widths[i], level, norm, use_dropout and i >= 4 and level is not None)
        _, bias = find_norm(norm)
        assert level is not None
        first, last = nn.Conv2d(input_nc, ngf, 4, 2, 1, bias=bias), nn.ConvTranspose2d(2 * ngf, output_nc, 4, 2, 1)
        ends = nn.Sequential(first, level, nn.ReLU(), last, nn.Tanh())
        self.model = nn.Sequential(OrderedDict(model=ends))  # the authors' names nest once more
        self.num_downs = num_downs
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        check_divides(x, 2**self.num_downs)
        return self.model(x).float()


class UnetBlock(nn.Module):
    """One level: down, the levels below, up; beside the result goes the level's own input, after its leaky ReLU."""

    def __init__(self, outer: int, inner: int, below: UnetBlock | None, norm: str, dropout: bool):
        super().__init__()
        layer, bias = find_norm(norm)
        down: list[nn.Module] = [nn.Identity(), nn.Conv2d(outer, inner, 4, 2, 1, bias=bias)]
        if below is not None:
            down += [layer(inner), below]
        up = nn.ConvTranspose2d(inner if below is None else 2 * inner, outer, 4, 2, 1, bias=bias)
        last = [Dropout()] if dropout else []
        self.model = nn.Sequential(*down, nn.ReLU(), up, layer(outer), *last)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.leaky_relu(x, 0.2)
        return torch.cat([x, self.model(x)], 1)


# ── critics ──────────────────────────────────────────────────────────────────────────────────────────────────────
class NLayerDiscriminator(nn.Module):
    """PatchGAN: each logit judges one patch of the picture, 70 pixels wide with three layers."""

    def __init__(self, input_nc: int, ndf: int = 64, n_layers: int = 3, norm: str = "batch"):
        super().__init__()
        layer, bias = find_norm(norm)
        layers: list[nn.Module] = [nn.Conv2d(input_nc, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = ndf
        for n in range(1, n_layers + 1):
            before, width = width, ndf * min(2**n, 8)
            stride = 2 if n < n_layers else 1
            layers += [nn.Conv2d(before, width, 4, stride, 1, bias=bias), layer(width), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))
        self.smallest = 3 * 2**n_layers  # the last two convolutions take a pixel each, and leave one
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        if min(x.shape[2:]) < self.smallest:
            side = min(x.shape[2:])
            raise UserError(
                f"This patch critic needs pictures of {self.smallest} pixels a side or more, not {side}: give larger "
                "ones, or fewer layers."
            )
        return self.model(x)


class PixelDiscriminator(nn.Module):
    """Each logit judges one pixel."""

    def __init__(self, input_nc: int, ndf: int = 64, norm: str = "batch"):
        super().__init__()
        layer, bias = find_norm(norm)
        self.net = nn.Sequential(
            nn.Conv2d(input_nc, ndf, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(ndf, 2 * ndf, 1, bias=bias),
            layer(2 * ndf),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * ndf, 1, 1, bias=bias),
        )
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W]
        return self.net(x)


def initialise(module: nn.Module) -> None:
    """Weights normal with deviation 0.02, gains around 1, biases zero."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, BatchNorm):
        nn.init.normal_(module.weight, 1, 0.02)


def check_divides(x: Tensor, factor: int) -> None:
    """Raises UserError where height or width is no multiple of the factor."""
    height, width = x.shape[2:]
    if height % factor or width % factor:
        raise UserError(f"This generator takes pictures whose sides divide by {factor}, not {height}x{width}.")
