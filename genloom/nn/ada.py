"""The transforms of adaptive discriminator augmentation (Karras et al. 2020, appendix B): functions of images and of
uniform numbers, so that they draw nothing by themselves, save the noise of each pixel.

Every transform is drawn per sample with probability p. What is linear in the image and acts along an axis (resampling,
filtering) is a small matrix on each side of it, which a CPU multiplies faster than it convolves and which can be
differentiated any number of times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import cache, reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genloom import parallel

GROUPS: dict[str, tuple[str, ...]] = {
    "blit": ("xflip", "rotate90", "xint"),
    "geom": ("scale", "rotate", "aniso", "xfrac"),
    "color": ("brightness", "contrast", "lumaflip", "hue", "saturation"),
    "filter": ("imgfilter",),
    "noise": ("noise",),
    "cutout": ("cutout",),
}
BANDS = ("band0", "band1", "band2", "band3")
PARTS = {"rotate": ("rotate", "rotate_again"), "imgfilter": BANDS}  # transforms that are drawn in several places
DRAWS: tuple[str, ...] = tuple(d for group in GROUPS.values() for t in group for d in PARTS.get(t, (t,)))

LOW_PASS = (  # sym6, an orthonormal wavelet's: its 12 taps sum to √2
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
SPLIT = (-0.12940952255092145, 0.22414386804185735, 0.836516303737469, 0.48296291314469025)  # sym2, likewise
EXPECTED_POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # of natural images in the four bands: they follow 1/f


class Draws:
    """What each sample drew: uniform numbers [B, len(DRAWS), 3], a gate and two values for each place in `DRAWS`.

    Every value is 0, which changes nothing, where its gate is not below p and where its transform is not wanted.
    """

    def __init__(self, uniforms: Tensor, p: Tensor | float, transforms: Collection[str]):
        chances = dict.fromkeys(DRAWS, p * 0.0)
        chances |= {d: p for t in transforms for d in PARTS.get(t, (t,))}
        if "rotate" in transforms:  # two rotations, of which at least one is drawn with probability p
            chances["rotate"] = chances["rotate_again"] = 1 - (1 - p) ** 0.5
        gates = torch.stack([torch.as_tensor(chances[d], device=uniforms.device) for d in DRAWS])
        self.open = uniforms[:, :, 0] < gates  # [B, D]
        self.values = uniforms[:, :, 1:]

    def drawn(self, name: str) -> Tensor:
        """[B] bool."""
        return self.open[:, DRAWS.index(name)]

    def whole(self, name: str, n: int) -> Tensor:
        """[B] one of 0 ... n - 1."""
        return (self.values[:, DRAWS.index(name), 0] * n).floor() * self.drawn(name)

    def signed(self, name: str, i: int = 0) -> Tensor:
        """[B] uniform in [-1, 1)."""
        return (self.values[:, DRAWS.index(name), i] * 2 - 1) * self.drawn(name)

    def normal(self, name: str, i: int = 0) -> Tensor:
        """[B] standard normal, from the uniform number by the inverse of its distribution."""
        value = self.values[:, DRAWS.index(name), i].clamp(1e-7, 1 - 1e-7)  # finite: within 5.2 deviations
        return math.sqrt(2) * torch.erfinv(2 * value - 1) * self.drawn(name)


def transform(images: Tensor, uniforms: Tensor, p: Tensor | float, transforms: Collection[str]) -> Tensor:
    """Images [B, C, H, W] -> the same shape, each sample through the transforms that it drew; the others as they are.

    `uniforms` [B, len(DRAWS), 3] in [0, 1) decide all of it, but the pixels' own noise.
    """
    draws = Draws(uniforms.to(images.dtype), p, transforms)
    if not {*GROUPS["blit"], *GROUPS["geom"]}.isdisjoint(transforms):
        inverse = geometry(draws, *images.shape[2:])
        images = only(images, inverse, torch.eye(2, 3).to(inverse), warp)
    if not set(GROUPS["color"]).isdisjoint(transforms):
        n = images.shape[1]
        images = only(images, colours(draws, n), torch.eye(n, n + 1).to(images), recolour)
    if "imgfilter" in transforms:
        images = only(images, gains(draws), torch.ones(4).to(images), equalise)
    if "noise" in transforms:  # drawn whether or not it is needed here: another rank may need its rows
        noise = parallel.randn(*images.shape, device=images.device).to(images.dtype)
        images = images + 0.1 * draws.normal("noise").abs().view(-1, 1, 1, 1) * noise
    if "cutout" in transforms:
        images = images * kept(draws, *images.shape[2:])
    return images


def only(images: Tensor, settings: Tensor, neutral: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`change` the images whose settings [B, ...] are not the neutral one; no work for the others."""
    rows = (settings != neutral).flatten(1).any(1).nonzero().squeeze(1)
    if len(rows) == 0:
        return images
    if len(rows) == len(images):
        return change(images, settings)
    return images.index_copy(0, rows, change(images.index_select(0, rows), settings[rows]))


# ── pixel blitting and geometry ──────────────────────────────────────────────────────────────────────────────────
def geometry(draws: Draws, height: int, width: int) -> Tensor:
    """[B, 2, 3]: where in the input each place of the output comes from, in pixels from the centre.

    The transforms in their order are G = G_n ... G_1; this is the inverse of G, so theirs from left to right.
    """
    flip = 1 - 2 * draws.whole("xflip", 2)
    shrink, squeeze = torch.exp2(-0.2 * draws.normal("scale")), torch.exp2(-0.2 * draws.normal("aniso"))
    one = torch.ones_like(flip)
    whole = [-(0.125 * size * draws.signed("xint", i)).round() for i, size in enumerate((width, height))]
    part = [-0.125 * size * draws.normal("xfrac", i) for i, size in enumerate((width, height))]
    steps = (
        affine(flip, one),
        rotation(draws.whole("rotate90", 4) * (math.pi / 2)),
        affine(one, one, *whole),
        affine(shrink, shrink),
        rotation(math.pi * draws.signed("rotate")),
        affine(squeeze, 1 / squeeze),
        rotation(math.pi * draws.signed("rotate_again")),
        affine(one, one, *part),
    )
    return reduce(torch.matmul, steps)[:, :2]


def affine(x: Tensor, y: Tensor, right: Tensor | None = None, down: Tensor | None = None) -> Tensor:
    """[B, 3, 3] that scales by (x, y) [B], then shifts."""
    none = torch.zeros_like(x)
    right, down = none if right is None else right, none if down is None else down
    return torch.stack([x, none, right, none, y, down, none, none, torch.ones_like(x)], 1).view(-1, 3, 3)


def rotation(angle: Tensor) -> Tensor:
    """[B, 3, 3] that turns by an angle [B]; exactly nothing at 0."""
    cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return torch.stack([cos, -sin, none, sin, cos, none, none, none, torch.ones_like(angle)], 1).view(-1, 3, 3)


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Images [B, C, H, W] whose pixel at x is the input's at inverse · (x, 1), inverse [B, 2, 3] in pixels from the centre.

    Reflected at the borders, up-sampled by 2, sampled bilinearly at twice the rate, down-sampled: without aliasing.
    The two filters are orthogonal, so a shift by whole pixels keeps every value.
    """
    height, width = images.shape[2:]
    extra = 5  # points of the fine grid that the last filter looks at beyond the image
    centre = inverse.new_tensor([(width - 1) / 2, (height - 1) / 2])
    reach = inverse[:, :, :2].abs() @ (centre + extra / 2) + inverse[:, :, 2].abs()  # [B, 2]
    wanted = (reach.amax(0) - centre + 3.5).ceil().tolist()  # 3 pixels of the first filter, half a one of bilinear
    x, y = (int(min(max(m, 0), size - 1)) for m, size in zip(wanted, (width, height), strict=True))
    fine = up(height, y, images) @ images @ up(width, x, images).T  # [B, C, 2(H + 2y), 2(W + 2x)]

    columns = fine_grid(width, extra, images).expand(2 * height + 2 * extra, -1)
    rows = fine_grid(height, extra, images).unsqueeze(1).expand_as(columns)
    places = torch.stack([columns, rows, torch.ones_like(rows)], -1).flatten(0, 1) @ inverse.mT  # [B, P, 2]
    # fine point n lies on pixel n/2 of the padded image; grid sampling counts from -1 to 1, edge to edge
    grid = (2 * places - 0.5) / places.new_tensor([width + 2 * x, height + 2 * y])
    fine = Sample.apply(fine, grid.view(-1, *columns.shape, 2))
    return down(height, images) @ fine @ down(width, images).T


def fine_grid(size: int, extra: int, like: Tensor) -> Tensor:
    """Places of the fine grid's points, `extra` beyond each end, in pixels from the centre."""
    return torch.arange(-extra, 2 * size + extra, dtype=like.dtype, device=like.device) / 2 - (size - 1) / 2


def reflected(size: int, margin: int, like: Tensor) -> Tensor:
    """[size, size + 2 margin]: row i has a one wherever value i stands after padding by reflection, however far."""
    places = torch.arange(-margin, size + margin, device=like.device)
    period = max(2 * (size - 1), 1)
    folded = (size - 1) - ((places % period) - (size - 1)).abs()
    return torch.eye(size, dtype=like.dtype, device=like.device)[:, folded]


def up(size: int, margin: int, like: Tensor) -> Tensor:
    """[2(size + 2 margin), size]: pad by reflection, then up-sample by 2."""
    taps = math.sqrt(2) * like.new_tensor(LOW_PASS)
    padded = reflected(size, margin, like).unsqueeze(1)
    return F.conv_transpose1d(padded, taps.view(1, 1, -1), stride=2, padding=5).squeeze(1).T


def down(size: int, like: Tensor) -> Tensor:
    """[size, 2 size + 10]: down-sample by 2, the adjoint of up-sampling."""
    taps = math.sqrt(0.5) * like.new_tensor(LOW_PASS)
    points = torch.eye(2 * size + len(LOW_PASS) - 2, dtype=like.dtype, device=like.device)
    return F.conv1d(points.unsqueeze(1), taps.view(1, 1, -1), stride=2).squeeze(1).T


class Sample(torch.autograd.Function):
    """Bilinear samples of images [B, C, H, W] at grid [B, h, w, 2] -> [B, C, h, w], zeros outside.

    They are linear in the images: so the slope of the slope is sampling again, which torch's own does not offer.
    """

    @staticmethod
    def forward(images: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(images, grid, align_corners=False)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return Splat.apply(slope, ctx.saved_tensors[0], ctx.shape), None


class Splat(torch.autograd.Function):
    """The adjoint of `Sample`: [B, C, h, w] spread over images of that shape."""

    @staticmethod
    def forward(values: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        blank = values.new_zeros(1).expand(shape)  # of the images only the shape matters
        return torch.ops.aten.grid_sampler_2d_backward(values, blank, grid, 0, 0, False, (True, False))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, torch.Size], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None]:
        return Sample.apply(slope, ctx.saved_tensors[0]), None, None


# ── colour ───────────────────────────────────────────────────────────────────────────────────────────────────────
def colours(draws: Draws, n: int) -> Tensor:
    """[B, n, n + 1]: what each pixel of n channels is multiplied by, and what is added.

    In the order brightness, contrast, luma flip, hue, saturation all but the first keep the grey axis v and the plane
    of colours apart. So their product is c (±vvᵀ + s R (1 - vvᵀ)), R the turn of the plane, and brightness stays grey.
    """
    contrast = torch.exp2(0.5 * draws.normal("contrast"))
    luma = contrast * (1 - 2 * draws.whole("lumaflip", 2))
    chroma = contrast * torch.exp2(draws.normal("saturation"))
    hue = math.pi * draws.signed("hue") * (n == 3)
    grey = torch.full((n, n), 1 / n).to(luma)
    plane = torch.eye(n).to(luma) - grey
    turn = torch.zeros_like(grey)  # v × ·
    if n == 3:
        turn = luma.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    each = (-1, 1, 1)
    matrix = torch.eye(n).to(luma) + (luma - 1).view(each) * grey
    matrix = matrix + (chroma * hue.cos() - 1).view(each) * plane + (chroma * hue.sin()).view(each) * turn
    added = (luma * 0.2 * draws.normal("brightness")).view(each).expand(-1, n, 1)
    return torch.cat([matrix, added], 2)


def recolour(images: Tensor, matrix: Tensor) -> Tensor:
    """Each pixel of images [B, C, H, W] through its sample's matrix [B, C, C + 1]."""
    n = images.shape[1]
    return torch.baddbmm(matrix[:, :, n:], matrix[:, :, :n], images.flatten(2)).view_as(images)


# ── image-space filtering ────────────────────────────────────────────────────────────────────────────────────────
def gains(draws: Draws) -> Tensor:
    """[B, 4] amplification of each band; each draw keeps the power that a natural image is expected to have."""
    gain = torch.exp2(torch.stack([draws.normal(band) for band in BANDS], 1))
    power = 1 + torch.tensor(EXPECTED_POWER).to(gain) * (gain.square() - 1)  # [B, 4] after each draw
    return gain * power.rsqrt().prod(1, keepdim=True)


@cache
def filter_bank() -> np.ndarray:
    """[4, 43] symmetric filters that sum to one tap: the bands up to π/8, π/4, π/2 and π, by the wavelet sym2."""
    taps = np.array(SPLIT)
    low = np.convolve(taps, taps[::-1]) / 2
    high = -low  # what the low-pass leaves of one tap
    high[3] += 1
    bank = np.zeros((4, 43))
    rest = np.ones(1)
    for band, apart in ((3, 1), (2, 2), (1, 4)):
        for row, half in ((band, high), (0, low)):
            spread = np.zeros(6 * apart + 1)
            spread[::apart] = half
            taps = np.convolve(rest, spread)
            bank[row] = np.pad(taps, (43 - len(taps)) // 2)
        rest = taps
    return bank


def equalise(images: Tensor, gains: Tensor) -> Tensor:
    """Images [B, C, H, W], reflected at the borders, with their four bands amplified by gains [B, 4] along each axis."""
    bank = torch.from_numpy(filter_bank()).to(images)

    def along(size: int) -> Tensor:  # [B, size, size]
        each = F.conv1d(reflected(size, bank.shape[1] // 2, images).unsqueeze(1), bank.unsqueeze(1))
        return torch.einsum("bk,iko->boi", gains, each)

    height, width = images.shape[2:]
    return along(height).unsqueeze(1) @ images @ along(width).mT.unsqueeze(1)


# ── cutout ───────────────────────────────────────────────────────────────────────────────────────────────────────
def kept(draws: Draws, height: int, width: int) -> Tensor:
    """[B, 1, H, W]: 0 in a box half as high and wide as the image around a uniform place, 1 elsewhere."""

    def outside(size: int, i: int) -> Tensor:  # [B, size]
        centre = draws.values[:, DRAWS.index("cutout"), i].unsqueeze(1)
        places = (torch.arange(size, device=centre.device) + 0.5) / size
        return (places - centre).abs() >= 0.25

    box = ~(outside(height, 1).unsqueeze(2) | outside(width, 0).unsqueeze(1))
    return (~(box & draws.drawn("cutout").view(-1, 1, 1))).unsqueeze(1).to(draws.values.dtype)
